// Puts `s2ft serve` under load: starts it in a process of its own, streams completions to many
// clients at once over loopback, and looks at its memory and pages before, during and after.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { tokenBytes } from '../engine/engine-options.js'
import { Model } from '../model/model.js'
import { endTokens, randomAdapter } from './serve-adapters.js'
import { slope } from './summary.js'

export interface LoadSpec {
  model: string
  dtype: 'bf16' | 'f32'
  threads: number
  arithmetic: 'auto' | 'native' | 'widen'
  /** Clients take turns with the base and so many adapters, S²FT's and LoRA's. */
  adapters: number
  rank: number
  /** Where the adapters are kept meanwhile. */
  scratch: string
  clients: number
  seconds: number
  promptTokens: number
  newTokens: number
}

/** Seconds that 50, 95 and 99 of 100 stay within. */
export interface Percentiles {
  p50: number
  p95: number
  p99: number
}

export interface LoadResult {
  requests: number
  errors: number
  /** What the first of them said. */
  firstError: string | null
  tokens: number
  seconds: number
  firstToken: Percentiles
  token: Percentiles
  /** Of the server, idle before and after; null where the system does not tell. */
  residentBefore: number | null
  residentAfter: number | null
  /** By which it grew in the load's second half; least squares. */
  bytesPerMinute: number | null
  pagesBefore: number
  pagesAfter: number
}

/** What requests are made of. */
interface Served {
  /** Names and directories of adapters. */
  adapters: [string, string][]
  vocabulary: number
  /** Bytes for keys and values. */
  cacheMemory: number
  /** So unlikely that no answer ends early. */
  logitBias: Record<number, number>
}

export interface Answer {
  firstToken: number
  /** Seconds from one token to the next. */
  gaps: number[]
}

export function percentiles(values: readonly number[]): Percentiles {
  const sorted = Float64Array.from(values).sort()
  const at = (share: number) => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0
  return { p50: at(0.5), p95: at(0.95), p99: at(0.99) }
}

const seconds = () => performance.now() / 1000

/** Sequences that the server decodes at once. */
const SEQUENCES = 64
const PAGE_TOKENS = 16

/**
 * Room for as many sequences as run at once. The cache keeps the beginnings of prompts until it is
 * full: this one is, when every client had one answer, and grows no more while memory is watched.
 */
function cacheMemory({ clients, promptTokens, newTokens }: LoadSpec, { config, dtype }: Model) {
  const pages = Math.min(clients, SEQUENCES) * Math.ceil((promptTokens + newTokens) / PAGE_TOKENS)
  return pages * PAGE_TOKENS * tokenBytes(config, dtype)
}

class Server {
  private constructor(
    private readonly child: ChildProcess,
    readonly url: string,
    readonly model: string,
  ) {}

  static async start(spec: LoadSpec, served: Served): Promise<Server> {
    const main = fileURLToPath(new URL('../cli/main.js', import.meta.url))
    const { dtype, arithmetic, threads, clients } = spec
    const named = served.adapters.flatMap(([name, directory]) => [
      '--adapter',
      `${name}=${directory}`,
    ])
    const flags = ['--dtype', dtype, '--arithmetic', arithmetic, '--threads', String(threads)]
    const child = spawn(
      process.execPath,
      [
        ...[main, 'serve', '--model', spec.model, '--port', '0', '--json', ...flags, ...named],
        ...['--max-queue', String(clients), '--request-timeout', '3600'],
        ...['--max-sequences', String(SEQUENCES), '--cache-memory', String(served.cacheMemory)],
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    )
    process.on('exit', () => child.kill())
    process.once('SIGTERM', () => process.exit(143))
    for await (const line of createInterface(child.stdout!)) {
      const event = JSON.parse(line) as { type: string; url: string; model: string }
      if (event.type === 'listening') return new Server(child, event.url, event.model)
    }
    throw new Error(`s2ft serve ended with status ${child.exitCode}`)
  }

  resident(): number | null {
    try {
      const status = readFileSync(`/proc/${this.child.pid}/status`, 'utf8')
      return 1024 * Number(/^VmRSS:\s+(\d+)/m.exec(status)![1])
    } catch {
      return null
    }
  }

  /** Pages that sequences hold, once none runs or waits any more. */
  async pages(): Promise<number> {
    for (let tries = 0; ; tries++) {
      const text = await (await fetch(`${this.url}/metrics`)).text()
      const gauge = (name: string) => {
        const found = new RegExp(`^s2ft_${name} (\\S+)`, 'm').exec(text)
        if (!found) throw new Error(`/metrics: expected s2ft_${name}`)
        return Number(found[1])
      }
      const busy = gauge('sequences_running') + gauge('sequences_waiting')
      if (busy === 0 || tries === 100) return gauge('cache_pages_used')
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }

  async stop(): Promise<void> {
    const closed = once(this.child, 'close')
    this.child.kill('SIGTERM')
    await closed
  }
}

/** Streams one completion. Throws for whatever is no whole answer. */
export function complete(url: string, agent: Agent, body: object): Promise<Answer> {
  const start = seconds()
  return new Promise((resolve, reject) => {
    const options = { method: 'POST', agent, headers: { 'content-type': 'application/json' } }
    const asked = request(`${url}/v1/completions`, options, (answer) => {
      let text = ''
      let last = 0
      let firstToken = 0
      let whole = false
      let failure = ''
      const gaps: number[] = []
      answer.setEncoding('utf8')
      answer.on('data', (part: string) => {
        text += part
        const frames = text.split('\n\n')
        text = frames.pop()!
        // A token's part has log-probabilities; the last one of a choice has none.
        const tokens = frames.filter((frame) => frame.includes('"token_logprobs"')).length
        whole ||= frames.includes('data: [DONE]')
        failure ||= frames.find((frame) => frame.startsWith('data: {"error"')) ?? ''
        if (tokens === 0) return
        const now = seconds()
        if (last === 0) firstToken = now - start
        // Tokens that come together share the time.
        const gap = (now - last) / tokens
        for (let i = last === 0 ? 1 : 0; i < tokens; i++) gaps.push(last === 0 ? 0 : gap)
        last = now
      })
      answer.on('error', reject)
      answer.on('end', () => {
        if (answer.statusCode === 200 && whole && failure === '' && last > 0) {
          resolve({ firstToken, gaps })
          return
        }
        const what = failure || text.slice(0, 200) || 'an answer without an end'
        reject(new Error(`status ${answer.statusCode}: ${what}`))
      })
    })
    asked.on('error', reject)
    asked.end(JSON.stringify(body))
  })
}

async function prepare(spec: LoadSpec): Promise<Served> {
  const { dtype, threads, arithmetic, rank } = spec
  await using model = await Model.load(spec.model, { dtype, threads, arithmetic, device: 'cpu' })
  const adapters: [string, string][] = []
  for (let i = 0; i < spec.adapters; i++) {
    const directory = join(spec.scratch, `adapter-${i}`)
    const adapter = await randomAdapter(model, i % 2 === 0 ? 's2ft' : 'lora', rank, i + 1)
    await adapter.save(directory)
    adapters.push([`adapter-${i}`, directory])
  }
  const logitBias = Object.fromEntries((await endTokens(model)).map((id) => [id, -100]))
  const { vocabSize: vocabulary } = model.config.native
  return { adapters, vocabulary, cacheMemory: cacheMemory(spec, model), logitBias }
}

export async function measureLoad(spec: LoadSpec): Promise<LoadResult> {
  const served = await prepare(spec)
  const server = await Server.start(spec, served)
  const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY })
  const models = [server.model, ...served.adapters.map(([name]) => name)]
  let sent = 0
  const ask = (client: number) => {
    const at = sent++
    return complete(server.url, agent, {
      model: models[client % models.length],
      prompt: Array.from(
        { length: spec.promptTokens },
        (_, i) => (at * 7919 + i * 104729) % served.vocabulary,
      ),
      max_tokens: spec.newTokens,
      logprobs: 0,
      logit_bias: served.logitBias,
      seed: at,
      stream: true,
    })
  }
  try {
    // Every client asks once before anything is looked at: memory is touched, code is compiled.
    await Promise.all(Array.from({ length: spec.clients }, (_, client) => ask(client)))
    const pagesBefore = await server.pages()
    const residentBefore = server.resident()
    const found = await load(spec, ask, () => server.resident())
    const pagesAfter = await server.pages()
    return { ...found, residentBefore, residentAfter: server.resident(), pagesBefore, pagesAfter }
  } finally {
    agent.destroy()
    await server.stop()
  }
}

async function load(
  spec: LoadSpec,
  ask: (client: number) => Promise<Answer>,
  resident: () => number | null,
) {
  const answers: Answer[] = []
  const errors: string[] = []
  const held: [number, number][] = []
  const start = seconds()
  const sampler = setInterval(
    () => {
      const bytes = resident()
      const at = seconds() - start
      if (bytes !== null && at > spec.seconds / 2 && at < spec.seconds) held.push([at / 60, bytes])
    },
    Math.min(1000, 50 * spec.seconds),
  )
  const client = async (number: number) => {
    while (seconds() - start < spec.seconds) {
      try {
        answers.push(await ask(number))
      } catch (error) {
        errors.push((error as Error).message)
        // A server that is gone is not asked in a tight loop.
        await new Promise((resolve) => setTimeout(resolve, 100))
      }
    }
  }
  await Promise.all(Array.from({ length: spec.clients }, (_, i) => client(i)))
  const took = seconds() - start
  clearInterval(sampler)
  const gaps = answers.flatMap((answer) => answer.gaps)
  return {
    requests: answers.length + errors.length,
    errors: errors.length,
    firstError: errors[0] ?? null,
    tokens: answers.length + gaps.length,
    seconds: took,
    firstToken: percentiles(answers.map((answer) => answer.firstToken)),
    token: percentiles(gaps),
    bytesPerMinute: slope(held) ?? null,
  }
}
