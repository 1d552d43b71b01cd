// Data parallel training on one machine: two ranks against one, and how jobs end.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { PlanEvent } from '../../lib/index.js'
import { temporaryDirectory } from '../support/directories.js'
import { readSafetensors } from '../support/safetensors.js'
import {
  common,
  finished,
  heldOut,
  missing,
  processOfRank,
  runRanks,
  startOne,
  startRanks,
  stepsOf,
} from './support.js'

if (missing) console.log(`skipped: data parallel training: ${missing}`)

const adapterFile = (output: string) => readFileSync(join(output, 'adapter_model.safetensors'))

function floats(output: string): Float32Array {
  const parts = [...readSafetensors(join(output, 'adapter_model.safetensors'))]
    .filter(([name]) => name.endsWith('.s2ft_delta'))
    .map(([, { bytes }]) => new Float32Array(bytes.slice().buffer))
  return Float32Array.from(parts.flatMap((part) => [...part]))
}

const checkpointsOf = (output: string) =>
  readdirSync(output)
    .flatMap((name) => /^checkpoint-(\d+)$/.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => a - b)

describe.skipIf(missing)('ranks', () => {
  const work = temporaryDirectory()
  const to = (name: string) => join(work, name)

  test('train as one process does, say so once, and repeat bit by bit', async () => {
    const args = [
      ...[...common, '--max-steps', '12', '--eval-data', heldOut, '--eval-samples', '50'],
      ...['--selection', 'gradient', '--warmup-steps', '2', '--max-grad-norm', '0.5'],
    ]
    const two = await runRanks(2, [...args, '--output', to('two')])
    expect(two.status, two.stderr).toBe(0)
    const again = await runRanks(2, [...args, '--output', to('again')])
    const one = await finished(
      startOne([...args, '--gradient-accumulation-steps', '2', '--output', to('one')]),
    )
    expect(one.status, one.stderr).toBe(0)

    expect(two.events.map(({ type }) => type)).toEqual(one.events.map(({ type }) => type))
    expect(stepsOf(again.events).map(({ loss }) => loss)).toEqual(
      stepsOf(two.events).map(({ loss }) => loss),
    )
    expect(adapterFile(to('again')).equals(adapterFile(to('two')))).toBe(true)
    const expected = stepsOf(one.events)
    for (const [i, step] of stepsOf(two.events).entries()) {
      const { loss, gradNorm, tokens, inputTokens, learningRate } = expected[i]!
      expect(step).toMatchObject({ step: i + 1, tokens, inputTokens, learningRate })
      // Sums in another order: some last bits of f32, which twelve steps carry on.
      expect(Math.abs(step.loss - loss)).toBeLessThan(1e-5 * loss)
      expect(Math.abs(step.gradNorm - gradNorm)).toBeLessThan(1e-4 * gradNorm)
    }
    const evaluated = [two, one].map(({ events }) => events.find(({ type }) => type === 'eval'))
    expect(evaluated[0]).toMatchObject({ tokens: (evaluated[1] as { tokens: number }).tokens })
    const [a, b] = [floats(to('two')), floats(to('one'))]
    const largest = b.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
    expect(largest).toBeGreaterThan(1e-4)
    expect(a.length).toBe(b.length)
    for (const [i, x] of a.entries()) expect(Math.abs(x - b[i]!)).toBeLessThan(1e-3 * largest)

    const plan = two.events.find((event): event is PlanEvent => event.type === 'plan')!
    expect(plan.distributed).toMatchObject({ ranks: 2, bytesPerStep: 4 * plan.trainableParameters })
    // A rank sends its half of the gradients and the sums of the other half.
    for (const { bytesSent } of stepsOf(two.events)) {
      expect(Math.abs(bytesSent! - plan.distributed!.bytesPerStep)).toBeLessThanOrEqual(16)
    }
    expect(plan.distributed!.bytesPerStep).toBeLessThan(plan.distributed!.fullBytesPerStep / 10)
  }, 240_000)

  test('refuse to start on other data than rank 0, naming rank and field', async () => {
    const args = [...common, '--max-steps', '2', '--output', to('mixed')]
    const other = args.map((arg) => (arg.endsWith('train.jsonl') ? heldOut : arg))
    const { status, stderr } = await finished(startRanks([args, other]))
    expect(status).not.toBe(0)
    expect(stderr).toMatch(/s2ft: error \[INVALID_ARGUMENT\] rank \d: rank 1: data: expected "/)
  }, 120_000)

  test('do not wait for one that cannot start', async () => {
    const args = [...common, '--max-steps', '2', '--output', to('half')]
    const broken = args.map((arg) => (arg.endsWith('tiny') ? to('nowhere') : arg))
    const { status, stderr } = await finished(startRanks([args, broken]))
    expect(status).not.toBe(0)
    expect(stderr).toMatch(/\[IO\] rank 1: expected a model directory at/)
  }, 120_000)

  test('stop at the same step when the job is told to, and resume bit by bit', async () => {
    const args = [...common, '--max-steps', '150', '--save-steps', '50']
    const whole = await runRanks(2, [...args, '--output', to('whole')])
    expect(whole.status, whole.stderr).toBe(0)
    const resumed = [...args, '--output', to('stopped')]
    const child = startRanks([resumed, resumed])
    const stopped = await finished(child, (event) => {
      if (event.type === 'step' && event.step === 60) {
        process.kill(processOfRank(1, to('stopped')), 'SIGUSR2')
      }
    })
    const last = stopped.events.at(-1)!
    expect(last.type, stopped.stderr).toBe('interrupted')
    expect(stopped.status).toBeGreaterThan(0)
    expect(checkpointsOf(to('stopped'))).toContain((last as { step: number }).step)
    const rest = await runRanks(2, [...resumed, '--resume'])
    expect(rest.status, rest.stderr).toBe(0)
    expect(adapterFile(to('stopped')).equals(adapterFile(to('whole')))).toBe(true)

    // A rank dies: the others go with it, and a checkpoint is there.
    const killedArgs = [...args, '--output', to('killed')]
    const killed = await finished(startRanks([killedArgs, killedArgs]), (event) => {
      if (event.type === 'step' && event.step === 75) {
        process.kill(processOfRank(1, to('killed')), 'SIGKILL')
      }
    })
    expect(killed.status).not.toBe(0)
    expect(killed.stderr).toMatch(/rank 1/)
    expect(checkpointsOf(to('killed')).at(-1)).toBeGreaterThanOrEqual(50)
    const after = await runRanks(2, [...killedArgs, '--resume'])
    expect(after.status, after.stderr).toBe(0)
    expect(adapterFile(to('killed')).equals(adapterFile(to('whole')))).toBe(true)
  }, 360_000)

  test('notice one that hangs, and save what was trained', async () => {
    const args = [...common, '--max-steps', '400', '--output', to('hung')]
    const hanging = [...args, '--distributed-timeout', '3']
    let frozen = 0
    const child = startRanks([hanging, hanging])
    const ran = finished(child, (event) => {
      if (event.type !== 'step' || event.step !== 20) return
      frozen = processOfRank(1, to('hung'))
      process.kill(frozen, 'SIGSTOP')
    })
    const { status, stderr } = await ran
    await sleep(100)
    try {
      process.kill(frozen, 'SIGKILL')
    } catch {
      // The launcher has ended it.
    }
    expect(status).not.toBe(0)
    expect(stderr).toMatch(/\[RANK_FAILED\] rank 0: waited \d+ s for rank 1 .*resume from/)
    expect(checkpointsOf(to('hung')).at(-1)).toBeGreaterThanOrEqual(20)
  }, 120_000)
})
