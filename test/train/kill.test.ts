// Crash safety: `s2ft train` is killed (SIGKILL) at random moments and resumed until it ends.
// S2FT_KILLS=50 kills fifty times instead of twelve; S2FT_KILL_SEED chooses other moments.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, watch, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { Random } from '../../lib/data/random.js'
import { hasTokenizer, mainScript, makeModel } from '../cli/support.js'
import { temporaryDirectory } from '../support/directories.js'
import { readSafetensors } from '../support/safetensors.js'

if (!existsSync(mainScript)) throw new Error(`${mainScript} is missing: run npm run build first`)

const kills = Number(process.env.S2FT_KILLS ?? 12)
const seed = Number(process.env.S2FT_KILL_SEED ?? 0)
const steps = 24
const keep = 2

/** When a process is killed: a random time after it started, or after something it did. */
const moments = ['half a checkpoint', 'half a result', 'start', 'plan', 'step'] as const
type Moment = (typeof moments)[number]

/** Folders and files that are still being written, or being removed. */
const unfinished = /^\.+(checkpoint-\d+|metrics\.jsonl)\.(tmp|trash)-/
const checkpointName = /^checkpoint-(\d+)$/

type Files = Map<string, Buffer>
const filesOf = (folder: string): Files =>
  new Map(
    readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map(({ name }) => [name, readFileSync(join(folder, name))]),
  )
const checkpointsOf = (output: string): number[] =>
  readdirSync(output)
    .flatMap((name) => checkpointName.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => a - b)

interface Setup {
  args: string[]
  output: string
}

async function setUp(method: string): Promise<Setup & { reference: Setup }> {
  const work = temporaryDirectory()
  const model = await makeModel(join(work, 'model'))
  const data = join(work, 'data.jsonl')
  const rows = Array.from({ length: 48 }, (_, i) => ({
    question: `How much is ${i} and ${i}, said in a long sentence that takes a while to read?`,
    answer: `It is ${2 * i}, as anybody can tell.`,
  }))
  writeFileSync(data, rows.map((row) => `${JSON.stringify(row)}\n`).join(''))
  const args = [
    ...['train', '--model', model, '--data', data, '--json', '--method', method],
    ...['--batch-size', '8', '--gradient-accumulation-steps', '2', '--learning-rate', '0.01'],
    ...['--max-steps', String(steps), '--save-steps', '1', '--threads', '1'],
  ]
  const limited = [...args, '--save-total-limit', String(keep), '--resume']
  return {
    args: limited,
    output: join(work, 'killed'),
    reference: { args, output: join(work, 'whole') },
  }
}

function start({ args, output }: Setup): ChildProcess {
  const env = { ...process.env, NO_COLOR: '1', S2FT_DEBUG: '' }
  return spawn(process.execPath, [mainScript, ...args, '--output', output], {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
}

/** What the uninterrupted run wrote: every checkpoint, the result, and how long its parts took. */
interface Reference {
  checkpoints: Map<number, Files>
  result: Files
  loadTime: number
  stepTime: number
}

async function uninterrupted(setup: Setup): Promise<Reference> {
  const began = performance.now()
  const child = start(setup)
  const exit = once(child, 'exit')
  let [loadTime, runTime] = [0, 0]
  for await (const line of createInterface({ input: child.stdout! })) {
    const now = performance.now() - began
    const { type } = JSON.parse(line)
    if (type === 'plan') loadTime = now
    if (type === 'end') runTime = now - loadTime
  }
  expect(await exit).toEqual([0, null])
  const checkpoints = new Map<number, Files>()
  for (const step of checkpointsOf(setup.output)) {
    const files = filesOf(join(setup.output, `checkpoint-${step}`))
    for (const name of files.keys()) {
      const file = join(setup.output, `checkpoint-${step}`, name)
      if (name.endsWith('.safetensors')) expect(readSafetensors(file).size).toBeGreaterThan(0)
      if (name.endsWith('.json')) JSON.parse(readFileSync(file, 'utf8'))
    }
    checkpoints.set(step, files)
  }
  expect([...checkpoints.keys()]).toEqual(Array.from({ length: steps }, (_, i) => i + 1))
  expect(checkpoints.get(steps)!.has('optimizer.safetensors')).toBe(true)
  expect(checkpoints.get(steps)!.has('trainer_state.json')).toBe(true)
  const result = filesOf(setup.output)
  result.delete('metrics.jsonl')
  return { checkpoints, result, loadTime, stepTime: runTime / steps }
}

function expectSame(found: Files, expected: Files, where: string): void {
  expect([...found.keys()].sort(), where).toEqual([...expected.keys()].sort())
  for (const [name, bytes] of found) {
    expect(bytes.equals(expected.get(name)!), `${where}/${name} is the reference's`).toBe(true)
  }
}

/** Resolves once a name that `matches` appears in `folder`. */
function appears(folder: string, matches: (name: string) => boolean, signal: AbortSignal) {
  return new Promise<void>((resolve) => {
    const watcher = watch(folder, { signal }, (_, name) => {
      if (name !== null && matches(name)) {
        watcher.close()
        resolve()
      }
    })
  })
}

/** Starts the run and kills it at the moment; false when it reached its end before. */
async function killAt(setup: Setup, moment: Moment, random: Random, reference: Reference) {
  const { output } = setup
  const child = start(setup)
  let complaint = ''
  child.stderr!.on('data', (text) => {
    complaint += text
  })
  const exit = once(child, 'exit') as Promise<[number | null, string | null]>
  const ended = new AbortController()
  const { signal } = ended
  exit.then(() => ended.abort())
  // Steps that this process takes before it is killed; not all of the run, so that many fit.
  const after = 1 + random.below(6)
  let seen = 0
  const lines = createInterface({ input: child.stdout! })
  const reached = new Promise<void>((resolve) => {
    lines.on('line', (line) => {
      const { type } = JSON.parse(line)
      if (type === 'plan' && moment === 'plan') resolve()
      if (type === 'step' && moment === 'step' && ++seen === after) resolve()
      if (type !== 'plan') return
      if (moment === 'half a checkpoint') {
        const counted = (name: string) => unfinished.test(name) && ++seen >= after
        appears(output, counted, signal).then(resolve)
      }
      if (moment === 'half a result') {
        const aside = (name: string) => name.startsWith(`.${basename(output)}.tmp-`)
        appears(dirname(output), aside, signal).then(resolve)
      }
    })
  })
  if (moment !== 'start') await Promise.race([reached, exit])
  const { loadTime, stepTime } = reference
  const most: Record<Moment, number> = {
    start: loadTime,
    plan: 3 * stepTime,
    step: stepTime,
    'half a checkpoint': stepTime,
    'half a result': stepTime / 3,
  }
  await sleep((random.uint32() / 2 ** 32) * most[moment], undefined, { signal }).catch(() => {})
  child.kill('SIGKILL')
  const [code, killed] = await exit
  if (killed === 'SIGKILL') return true
  expect(code, complaint).toBe(0)
  return false
}

/** What must hold at every moment, so also after a kill. Returns what was left half done. */
function expectWhole(output: string, reference: Reference, newestBefore: number) {
  if (!existsSync(output)) return { newest: 0, half: [] as string[] }
  const visible = readdirSync(output).filter((name) => !name.startsWith('.'))
  const half = readdirSync(output).filter((name) => name.startsWith('.'))
  expect(half.filter((name) => !unfinished.test(name))).toEqual([])
  const found = checkpointsOf(output)
  for (const step of found) {
    const name = `checkpoint-${step}`
    expectSame(filesOf(join(output, name)), reference.checkpoints.get(step)!, name)
  }
  const newest = found.at(-1) ?? 0
  expect(newest).toBeGreaterThanOrEqual(newestBefore)
  // The newest is there before the oldest goes.
  expect(found.length).toBeLessThanOrEqual(keep + 1)
  const result = filesOf(output)
  for (const name of visible.filter((entry) => !checkpointName.test(entry))) {
    if (name === 'metrics.jsonl') continue
    expect(result.get(name)?.equals(reference.result.get(name)!), `${name}, visible`).toBe(true)
  }
  const marker = reference.result.has('adapter_config.json') ? 'adapter_config.json' : 'config.json'
  if (result.has(marker)) {
    result.delete('metrics.jsonl')
    expectSame(result, reference.result, 'the result')
  }
  if (existsSync(join(output, 'metrics.jsonl'))) {
    const lines = readFileSync(join(output, 'metrics.jsonl'), 'utf8').split('\n').slice(0, -1)
    for (const line of lines) JSON.parse(line)
  }
  const beside = readdirSync(dirname(output)).filter((name) => name.startsWith('.'))
  return { newest, half: [...half, ...beside] }
}

function expectFinished({ output }: Setup, reference: Reference): void {
  const names = readdirSync(output)
  expect(names.filter((name) => name.startsWith('.'))).toEqual([])
  expect(readdirSync(dirname(output)).filter((name) => name.startsWith('.'))).toEqual([])
  expect(checkpointsOf(output)).toEqual([steps - 1, steps])
  const logged = readFileSync(join(output, 'metrics.jsonl'), 'utf8').trim().split('\n')
  expect(logged.map((line) => JSON.parse(line).step)).toEqual(
    Array.from({ length: steps }, (_, i) => i + 1),
  )
  const result = filesOf(output)
  result.delete('metrics.jsonl')
  expectSame(result, reference.result, 'the result')
}

describe.skipIf(!hasTokenizer).each([
  ['s2ft', Math.ceil((kills * 2) / 3)],
  ['full', Math.floor(kills / 3)],
])('%s, killed %i times', (method, wanted) => {
  test('has whole checkpoints at every moment and ends with the same bytes', async () => {
    const setup = await setUp(method)
    const reference = await uninterrupted(setup.reference)
    const random = new Random(seed)
    let [newest, killed, finished, inWriting] = [0, 0, 0, 0]
    // A kill that leaves something half-written is what the test is about: at least one.
    while (killed < wanted || (inWriting === 0 && killed < wanted + 20)) {
      const moment = moments[killed % moments.length]!
      const run = finished === 0 ? setup : { ...setup, output: `${setup.output}-${finished}` }
      const cut = await killAt(run, moment, random, reference)
      const state = expectWhole(run.output, reference, newest)
      newest = state.newest
      if (cut) {
        killed++
        if (state.half.length > 0) inWriting++
        continue
      }
      expectFinished(run, reference)
      finished++
      newest = 0
    }
    expect(inWriting).toBeGreaterThan(0)
    const last = finished === 0 ? setup : { ...setup, output: `${setup.output}-${finished}` }
    const child = start(last)
    child.stdout!.resume()
    child.stderr!.resume()
    expect(await once(child, 'exit')).toEqual([0, null])
    expectFinished(last, reference)
    console.log(
      `${method}: ${killed} kills, ${inWriting} of them in the middle of writing; ` +
        `${finished + 1} runs finished`,
    )
  }, 600_000)
})
