// The border to the addon: the event loop keeps turning, environments end in mid-work, and
// handles give their memory back.
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { beforeAll, describe, expect, test } from 'vitest'
import { Model, S2FTError, s2ft, Trainer } from '../../lib/index.js'
import { goldenRoot } from '../support/golden.js'
import { compiledPackage, wideModel } from './support.js'

const tiny = join(goldenRoot, 'llama-gqa')
let wide: string

beforeAll(async () => {
  wide = await wideModel()
})

function sample(length: number, vocab: number) {
  const tokens = Int32Array.from({ length }, (_, i) => (i * 7919 + 13) % vocab)
  return { tokens, labels: tokens }
}

const method = () => s2ft({ ratios: { down: 0.1, o: 0.25 } })

/** Runs a script against the compiled package in a process of its own. */
function run(script: string, args: string[] = []) {
  const child = spawn(process.execPath, ['--input-type=module', '-e', script, '--', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (data) => (stdout += data))
  child.stderr.on('data', (data) => (stderr += data))
  return new Promise<{ code: number | null; signal: string | null; out: string; err: string }>(
    (resolve) =>
      child.on('exit', (code, signal) => resolve({ code, signal, out: stdout, err: stderr })),
  )
}

test('the event loop keeps turning during a step', async () => {
  await using model = await Model.load(wide, { device: 'cpu', dtype: 'f32' })
  await using trainer = new Trainer(model, { method: method() })
  await trainer.step([sample(8, 256)])
  let turns = 0
  const timer = setInterval(() => turns++, 5)
  const begin = performance.now()
  await trainer.step([sample(512, 256), sample(512, 256)])
  const elapsed = performance.now() - begin
  clearInterval(timer)
  // A blocked loop turns once or never; a free one on a busy machine still turns often.
  expect(elapsed).toBeGreaterThan(100)
  expect(turns).toBeGreaterThan(elapsed / 5 / 10)
})

test('dispose in mid-step waits for the step', async () => {
  const model = await Model.load(wide, { device: 'cpu', dtype: 'f32' })
  const trainer = new Trainer(model, { method: method() })
  await trainer.step([sample(8, 256)])
  const step = trainer.step([sample(512, 256)])
  const disposed = Promise.all([trainer.dispose(), model.dispose()])
  const { loss } = await step
  expect(loss).toBeGreaterThan(0)
  await disposed
  await expect(trainer.step([sample(8, 256)])).rejects.toMatchObject({ code: 'DISPOSED' })
  await expect(model.logits(Int32Array.of(1))).rejects.toBeInstanceOf(S2FTError)
})

describe('the process ends cleanly', () => {
  const prelude = () => `
    const { Model, Trainer, s2ft } = await import(${JSON.stringify(compiledPackage)})
    const model = await Model.load(process.argv.at(-1), { device: 'cpu', dtype: 'f32' })
    const trainer = new Trainer(model, { method: s2ft({ ratios: { down: 0.1 } }) })
    const tokens = Int32Array.from({ length: 1024 }, (_, i) => i % 256)
    const batch = [{ tokens, labels: tokens }, { tokens, labels: tokens }]
    await trainer.step([{ tokens: tokens.subarray(0, 8), labels: tokens.subarray(0, 8) }])
  `

  test('by process.exit in mid-training', async () => {
    const script = `${prelude()}
      for (let i = 0; i < 50; i++) trainer.step(batch).catch(() => {})
      setTimeout(() => { console.log('leaving'); process.exit(7) }, 60)`
    const begin = performance.now()
    const { code, signal, out, err } = await run(script, [wide])
    expect({ code, signal, out, err }).toEqual({ code: 7, signal: null, out: 'leaving\n', err: '' })
    // Fifty steps take far longer than the one that may be in flight.
    expect(performance.now() - begin).toBeLessThan(60_000)
  })

  test('by running out of work, without dispose', async () => {
    const script = `${prelude()} console.log((await trainer.step(batch)).loss > 0)`
    expect(await run(script, [wide])).toEqual({ code: 0, signal: null, out: 'true\n', err: '' })
  })

  test('by an uncaught exception in mid-training', async () => {
    const script = `${prelude()}
      trainer.step(batch)
      setTimeout(() => { throw new Error('on purpose') }, 30)`
    const { code, signal, err } = await run(script, [wide])
    expect({ code, signal }).toEqual({ code: 1, signal: null })
    expect(err).toContain('on purpose')
  })
})

describe('worker threads', () => {
  const script = `
    import { parentPort, workerData } from 'node:worker_threads'
    const { Model, Trainer, s2ft } = await import(workerData.compiled)
    const model = await Model.load(workerData.directory, { device: 'cpu', dtype: 'f32' })
    const trainer = new Trainer(model, { method: s2ft({ ratios: { down: 0.1 } }) })
    const tokens = Int32Array.from({ length: workerData.length }, (_, i) => i % 60)
    parentPort.postMessage('ready')
    const { loss } = await trainer.step([{ tokens, labels: tokens }])
    const code = await model.logits(Int32Array.of(999999)).catch((error) => error.code)
    parentPort.postMessage({ loss, code })
    if (workerData.dispose) { await trainer.dispose(); await model.dispose() }
  `

  function start(workerData: object) {
    const source = new URL(`data:text/javascript,${encodeURIComponent(script)}`)
    return new Worker(source, { workerData: { compiled: compiledPackage, ...workerData } })
  }

  test('train side by side with the main thread and report typed errors', async () => {
    const workers = [true, false].map((dispose) => start({ directory: tiny, length: 20, dispose }))
    const results = await Promise.all(
      workers.map(
        (worker) =>
          new Promise<unknown[]>((resolve, reject) => {
            const messages: unknown[] = []
            worker.on('message', (message) => messages.push(message))
            worker.on('error', reject)
            worker.on('exit', (code) => resolve([...messages, code]))
          }),
      ),
    )
    for (const result of results) {
      expect(result).toEqual(['ready', { loss: expect.any(Number), code: 'INVALID_ARGUMENT' }, 0])
    }
    expect((results[0]![1] as { loss: number }).loss).toBe(
      (results[1]![1] as { loss: number }).loss,
    )
  })

  test('terminated in mid-step', async () => {
    const worker = start({ directory: wide, length: 1024, dispose: false })
    await new Promise((resolve) => worker.once('message', resolve))
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(await worker.terminate()).toBe(1)
    // The addon still serves this thread.
    await using model = await Model.load(tiny, { device: 'cpu', dtype: 'f32' })
    expect(await model.logits(Int32Array.of(1, 2))).toHaveLength(2 * 67)
  })
})

test('1,000 load and dispose cycles do not grow', async () => {
  const resident = () => {
    const line = /VmRSS:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))
    return Number(line?.[1]) / 1024
  }
  const threads = () =>
    Number(/Threads:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1])
  const cycle = async (train: boolean) => {
    const model = await Model.load(tiny, { device: 'cpu', dtype: 'f32', threads: 1 })
    if (train) {
      const trainer = new Trainer(model, { method: method() })
      await trainer.step([sample(12, 60)])
      await trainer.dispose()
    }
    await model.dispose()
  }
  for (let i = 0; i < 200; i++) await cycle(i % 4 === 0)
  const [memory, count] = [resident(), threads()]
  for (let i = 0; i < 1000; i++) await cycle(i % 4 === 0)
  // A leaked model is 0.1 MB or more, so a leak a cycle would show as 100 MB.
  expect(resident() - memory).toBeLessThan(40)
  expect(threads()).toBeLessThanOrEqual(count + 2)
}, 300_000)
