// A resumed run continues bit by bit, or says why it cannot: thread count and bf16 arithmetic.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { Model, type SampleInput, s2ft, type TrainEvent, Trainer } from '../../lib/index.js'
import { temporaryDirectory } from '../support/directories.js'
import { goldenRoot } from '../support/golden.js'
import { rejection } from '../support/rejection.js'

const samples: SampleInput[] = Array.from({ length: 6 }, (_, i) => ({
  tokens: Array.from({ length: 9 }, (_, j) => (i * 13 + j * 29) % 67),
}))

/** Trains in `outputDir` for two steps, or resumes to four. */
async function run(
  outputDir: string,
  machine: { dtype?: 'f32' | 'bf16'; threads?: number },
  how: { resume?: boolean; allowDifferentMachine?: boolean } = {},
): Promise<TrainEvent[]> {
  const { dtype = 'f32', threads = 1 } = machine
  await using model = await Model.load(join(goldenRoot, 'llama-gqa'), { dtype, threads })
  const method = s2ft({ ratios: { down: 0.1 } })
  await using trainer = new Trainer(model, { method, maxSteps: 4, batchSize: 2, outputDir })
  const stop = new AbortController()
  const events: TrainEvent[] = []
  for await (const event of trainer.fit(samples, { ...how, signal: stop.signal })) {
    events.push(event)
    if (event.type === 'step' && event.step === 2) stop.abort()
  }
  return events
}

const stateFile = (output: string) => join(output, 'checkpoint-2', 'trainer_state.json')
const stateOf = (output: string) => JSON.parse(readFileSync(stateFile(output), 'utf8'))

/** The checkpoint as a machine whose measurement chose otherwise would have written it. */
function otherArithmetic(output: string): void {
  const state = stateOf(output)
  state.machine.arithmetic = state.machine.arithmetic === 'widen' ? 'native' : 'widen'
  writeFileSync(stateFile(output), JSON.stringify(state))
}

describe('resuming', () => {
  test('with another thread count is refused, by both numbers, unless allowed', async () => {
    const output = temporaryDirectory()
    await run(output, { threads: 1 })
    expect(stateOf(output).machine).toMatchObject({ threads: 1 })
    const error = await rejection(() => run(output, { threads: 2 }, { resume: true }))
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toMatch(/threads: expected 1 .*found 2.*not bitwise.*threads 1/)
    expect(error.message).toContain('allowDifferentMachine')
    expect(error.details).toEqual({ option: 'threads', expected: 1, found: 2 })
    const how = { resume: true, allowDifferentMachine: true }
    const events = await run(output, { threads: 2 }, how)
    expect(events.find(({ type }) => type === 'warning')).toMatchObject({
      message: expect.stringContaining('threads: expected 1'),
    })
    expect(events.at(-1)).toMatchObject({ type: 'end', step: 4 })
  })

  test('with another bf16 arithmetic is refused, unless allowed', async () => {
    const output = temporaryDirectory()
    await run(output, { dtype: 'bf16' })
    const { arithmetic } = stateOf(output).machine
    expect(['native', 'widen']).toContain(arithmetic)
    otherArithmetic(output)
    const error = await rejection(() => run(output, { dtype: 'bf16' }, { resume: true }))
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.details).toMatchObject({ option: 'arithmetic', found: arithmetic })
    const how = { resume: true, allowDifferentMachine: true }
    expect((await run(output, { dtype: 'bf16' }, how)).at(-1)).toMatchObject({ type: 'end' })
  })

  test('f32 does not depend on the bf16 arithmetic', async () => {
    const output = temporaryDirectory()
    await run(output, {})
    otherArithmetic(output)
    const events = await run(output, {}, { resume: true })
    expect(events.map(({ type }) => type)).not.toContain('warning')
    expect(events.at(-1)).toMatchObject({ type: 'end', step: 4 })
  })

  test('what the checkpoint says about its machine must make sense', async () => {
    const output = temporaryDirectory()
    await run(output, {})
    const state = stateOf(output)
    state.machine.threads = 0
    writeFileSync(stateFile(output), JSON.stringify(state))
    const error = await rejection(() => run(output, {}, { resume: true }))
    expect(error.code).toBe('CORRUPT_FILE')
    expect(error.message).toContain('machine.threads')
  })
})

test('a loaded model tells what it computes with', async () => {
  const load = { dtype: 'bf16', arithmetic: 'widen', threads: 1 } as const
  await using model = await Model.load(join(goldenRoot, 'llama-gqa'), load)
  expect(model.threads).toBe(1)
  expect(model.arithmetic).toBe('widen')
})
