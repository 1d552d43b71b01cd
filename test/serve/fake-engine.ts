// A small engine for the server's own tests. Its "model" draws logits from a hash of the adapter
// and the last tokens; queue, aborts, seeds, stops, penalties and log-probabilities are done as
// EngineLike promises. Time passes only as asked for.
import { setTimeout as sleep } from 'node:timers/promises'
import type {
  EngineAdapter,
  EngineEvent,
  EngineLike,
  EngineRequest,
  EngineResult,
  EngineStats,
  TokenProbability,
} from '../../lib/engine/engine-types.js'
import { Random } from '../../lib/engine/random.js'
import { StopText } from '../../lib/engine/stop-text.js'
import { S2FTError } from '../../lib/index.js'
import { tokenText } from '../../lib/serve/logprobs.js'
import type { Tokenizer } from '../../lib/tokenizer/index.js'

export interface FakeOptions {
  maxSequences?: number
  maxQueue?: number
  /** Milliseconds a token. */
  delay?: number
}

export class FakeEngine implements EngineLike {
  readonly requests: EngineRequest[] = []
  readonly names = new Map<string, string | undefined>()
  running = 0
  disposed = false
  /** Thrown by the next request in place of its token of this number. */
  failure: { at: number; error: Error } | undefined
  /** No token comes before it resolves. */
  held: Promise<void> | undefined
  private readonly queue: (() => void)[] = []
  private readonly totals: EngineStats['totals'] = {
    ...{ requests: 0, promptTokens: 0, cachedTokens: 0, generatedTokens: 0, aborted: 0, passes: 0 },
    preempted: 0,
  }
  private readonly seen = new Set<string>()
  private readonly parts: readonly boolean[]

  constructor(
    private readonly tokenizer: Tokenizer,
    private readonly options: FakeOptions = {},
  ) {
    const ids = Array.from({ length: tokenizer.vocabSize }, (_, id) => tokenizer.tokenBytes(id))
    this.parts = ids.map((bytes) => tokenText(bytes).startsWith('bytes:'))
  }

  async *generate(request: EngineRequest): AsyncGenerator<EngineEvent, EngineResult> {
    this.requests.push(request)
    const { prompt, adapter, signal } = request
    if (adapter !== undefined && !this.names.has(adapter)) {
      throw new S2FTError('ADAPTER_MISMATCH', `expected a known adapter, found ${adapter}`)
    }
    this.totals.requests++
    await this.admit(signal)
    try {
      return yield* this.decode(request, [...(prompt as readonly number[])])
    } finally {
      this.running--
      this.queue.shift()?.()
    }
  }

  private async admit(signal: AbortSignal | undefined): Promise<void> {
    const { maxSequences = 8, maxQueue = 64 } = this.options
    if (this.running >= maxSequences) {
      if (this.queue.length >= maxQueue) {
        throw new S2FTError('OVERLOADED', `expected a queue of at most ${maxQueue} requests`)
      }
      await new Promise<void>((resolve) => {
        this.queue.push(resolve)
        signal?.addEventListener('abort', () => {
          const at = this.queue.indexOf(resolve)
          if (at >= 0) this.queue.splice(at, 1)
          resolve()
        })
      })
    }
    this.running++
  }

  private async *decode(
    request: EngineRequest,
    tokens: number[],
  ): AsyncGenerator<EngineEvent, EngineResult> {
    const { signal, maxNewTokens = 256, stop = [], stopTokenIds = [], seed } = request
    const promptTokens = tokens.length
    const cachedTokens = this.cached(request, tokens)
    const ends = new Set([...this.tokenizer.eosTokenIds, ...stopTokenIds])
    const random = new Random(seed ?? Math.floor(Math.random() * 2 ** 32))
    const stream = this.tokenizer.stream()
    const stops = new StopText([stop].flat())
    let text = ''
    const result = (finishReason: EngineResult['finishReason']): EngineResult => ({
      ...{ text, finishReason, promptTokens, cachedTokens },
      tokens: Int32Array.from(tokens.slice(promptTokens)),
      ...(request.promptLogprobs && { promptLogProbs: this.score(request, tokens, promptTokens) }),
    })
    for (let i = 0; ; i++) {
      await sleep(this.options.delay ?? 0)
      await this.held
      if (signal?.aborted) {
        this.totals.aborted++
        return result('abort')
      }
      if (this.failure?.at === i) {
        const { error } = this.failure
        this.failure = undefined
        throw error
      }
      this.totals.passes++
      this.totals.generatedTokens++
      const event = this.sample(request, tokens, promptTokens, random.next())
      const ended = ends.has(event.token)
      if (!ended) tokens.push(event.token)
      const found = stops.push(ended ? stream.flush() : stream.push(event.token))
      let fresh = found.text
      const full = i + 1 >= maxNewTokens
      if (!found.stopped && (ended || full)) {
        fresh += (ended ? '' : stops.push(stream.flush()).text) + stops.flush()
      }
      text += fresh
      yield { ...event, text: fresh }
      if (ended || found.stopped) return result('stop')
      if (full) return result('length')
    }
  }

  /** Whole pages of 4 tokens that a request of the same adapter began with. */
  private cached({ adapter = '' }: EngineRequest, tokens: readonly number[]): number {
    const key = (end: number) => `${adapter}:${tokens.slice(0, end).join()}`
    let found = 0
    for (let end = 4; end < tokens.length; end += 4) {
      if (this.seen.has(key(end))) found = end
      this.seen.add(key(end))
    }
    this.totals.promptTokens += tokens.length
    this.totals.cachedTokens += found
    return found
  }

  private logits(adapter: string | undefined, tokens: readonly number[]): Float64Array {
    let hash = 2166136261
    for (const character of `${adapter ?? ''}:${tokens.slice(-3).join()}`) {
      hash = Math.imul(hash ^ character.charCodeAt(0), 16777619)
    }
    // Parts of characters are left to requests that ask for them by logit_bias.
    return Float64Array.from({ length: this.tokenizer.vocabSize }, (_, id) => {
      hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d) + 0x6d2b79f5
      return 8 * ((hash >>> 8) / 2 ** 24) - (this.parts[id] ? 50 : 0)
    })
  }

  private score(request: EngineRequest, tokens: readonly number[], count: number): Float32Array {
    const scores = Float32Array.from({ length: count }, (_, i) => {
      const logProbs = logSoftmax(this.logits(request.adapter, tokens.slice(0, i)))
      return logProbs[tokens[i]!]!
    })
    scores[0] = Number.NaN
    return scores
  }

  private sample(
    request: EngineRequest,
    tokens: readonly number[],
    promptTokens: number,
    random: number,
  ): Omit<EngineEvent, 'text'> {
    const { temperature = 0, topK = 0, topLogprobs = 0, frequencyPenalty = 0 } = request
    const logits = this.logits(request.adapter, tokens)
    const own = logSoftmax(logits)
    const ranked = [...own.keys()].sort((a, b) => own[b]! - own[a]!)
    for (const [id, bias] of Object.entries(request.logitBias ?? {})) logits[Number(id)]! += bias
    for (const token of tokens.slice(promptTokens)) logits[token]! -= frequencyPenalty
    const order = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]!)
    const kept = temperature === 0 ? order.slice(0, 1) : topK > 0 ? order.slice(0, topK) : order
    const shares = logSoftmax(Float64Array.from(kept, (id) => logits[id]! / (temperature || 1)))
    let left = random
    const at = shares.findIndex((share) => (left -= Math.exp(share)) < 0)
    const token = kept[Math.max(at, 0)]!
    const of = (id: number): TokenProbability => ({ token: id, logProb: own[id]! })
    return { ...of(token), top: ranked.slice(0, topLogprobs).map(of) }
  }

  async addAdapter(name: string, source: string | object): Promise<void> {
    if (typeof source === 'string' && source.endsWith('broken')) {
      throw new S2FTError('CORRUPT_FILE', `${source}/adapter_config.json: expected JSON`)
    }
    this.names.set(name, typeof source === 'string' ? source : undefined)
  }

  async removeAdapter(name: string): Promise<void> {
    this.names.delete(name)
  }

  adapters(): readonly EngineAdapter[] {
    return Array.from(this.names, ([name, directory]) => {
      return { name, directory, kind: 's2ft', bytes: 100, resident: true }
    })
  }

  stats(): EngineStats {
    const known = this.names.size
    return {
      running: this.running,
      waiting: this.queue.length,
      pages: { total: 100, used: this.running, cached: 0 },
      adapters: { known, resident: known, bytes: 100 * known, loads: known, evictions: 0 },
      totals: { ...this.totals },
    }
  }

  async dispose(): Promise<void> {
    this.disposed = true
  }
}

function logSoftmax(logits: Float64Array): Float64Array {
  const most = Math.max(...logits)
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - most), 0)
  return logits.map((logit) => logit - most - Math.log(sum))
}
