// What the benchmarks of whole steps compute and decide by themselves.
import { describe, expect, test } from 'vitest'
import { lossDisagreement } from '../../lib/bench/agreement.js'
import type { CaseResult } from '../../lib/bench/case.js'
import { peerCommand, peerWarmup } from '../../lib/bench/peers.js'
import { type Measured, ratioLines } from '../../lib/bench/ratios.js'
import type { RealResult } from '../../lib/bench/real-case.js'
import { computedPositions } from '../../lib/bench/real-data.js'
import { type RealCase, summariseReal } from '../../lib/bench/real-summary.js'
import { runRounds } from '../../lib/bench/run.js'

const result = (seconds: number[], peakBytes: number | null = 100): CaseResult => ({
  seconds,
  trainable: 7,
  peakBytes,
  device: 'cpu',
  threads: 2,
  loss: 1,
})
const measured = (
  method: string,
  dtype: string,
  variant: 'eager' | 'tuned' | null,
  results: CaseResult[],
): Measured => ({ identity: { method, dtype, variant, batch: 4 }, results })
const run = { bench: 'train', model: 'm', quantity: 'tokensPerSecond' } as const
const speed = (r: CaseResult) => 1 / r.seconds[0]!

describe('ratio lines', () => {
  test('compare the first case with each other one, round by round', () => {
    const lines = ratioLines(
      run,
      [
        measured('s2ft', 'bf16', null, [result([1], 50), result([2], 50)]),
        measured('peft-lora7', 'f32', 'eager', [result([3]), result([3])]),
      ],
      speed,
    )
    expect(lines).toEqual([
      {
        type: 'ratio',
        bench: 'train',
        model: 'm',
        method: 's2ft',
        dtype: 'bf16',
        variant: null,
        batch: 4,
        against: 'peft-lora7',
        againstDtype: 'f32',
        againstVariant: 'eager',
        againstBatch: 4,
        best: true,
        quantity: 'tokensPerSecond',
        ratio: 2.25,
        ratioRange: [1.5, 3],
      },
      expect.objectContaining({ quantity: 'peakBytes', ratio: 0.5, ratioRange: [0.5, 0.5] }),
    ])
  })

  test('mark the fastest case of a method and variant', () => {
    const lines = ratioLines(
      run,
      [
        measured('s2ft', 'bf16', null, [result([1], null)]),
        measured('peft-lora7', 'bf16', 'eager', [result([4])]),
        measured('peft-lora7', 'f32', 'eager', [result([3])]),
        measured('peft-lora7', 'bf16', 'tuned', [result([2])]),
      ],
      speed,
    )
    expect(lines.map((l) => [l.againstDtype, l.againstVariant, l.quantity, l.best])).toEqual([
      ['bf16', 'eager', 'tokensPerSecond', false],
      ['f32', 'eager', 'tokensPerSecond', true],
      ['bf16', 'tuned', 'tokensPerSecond', true],
    ])
  })

  test('none without a case to compare with', () => {
    expect(ratioLines(run, [measured('s2ft', 'f32', null, [result([1])])], speed)).toEqual([])
    expect(ratioLines(run, [], speed)).toEqual([])
  })
})

test('first losses agree within a per cent', () => {
  expect(lossDisagreement('a', 1.509, 1.5)).toBeUndefined()
  expect(lossDisagreement('a bf16', 1.52, 1.5)).toMatch(/^a bf16: expected .* 1\.5000, found 1\.52/)
  expect(lossDisagreement('a', Number.NaN, 1.5)).toMatch(/found NaN/)
  expect(lossDisagreement('a', undefined, 1.5)).toMatch(/found none/)
})

// Worked by hand from the rule of cpp/model/batch.h: 16 sizes an octave, at most 63 rows more.
test.each([
  [1, 1],
  [31, 31],
  [33, 34],
  [100, 100],
  [101, 104],
  [1000, 1024],
  [5000, 5056],
])('%d tokens are computed as %d rows', (tokens, rows) => {
  expect(computedPositions(tokens)).toBe(rows)
})

test('a real case is summed up by what was timed', () => {
  const item = {
    name: 'peft-lora7',
    spec: { batch: 2, dtype: 'bf16' },
    peer: { python: 'p', variant: 'eager' },
  } as RealCase
  const sample = (tokens: number, trained: number) => ({
    tokens: new Int32Array(tokens),
    labels: Int32Array.from({ length: tokens }, (_, i) => (i >= tokens - trained ? 1 : -100)),
    source: 'x:1',
  })
  const real = (seconds: number[], peakBytes: number): RealResult => ({
    ...result(seconds, peakBytes),
    lossFirst: 3,
    loss: 1,
    positions: 80,
  })
  const timed = [sample(10, 5), sample(30, 5), sample(15, 1), sample(5, 1)]
  const summary = summariseReal(item, { model: 'm', data: 'd', lossBase: 3, timed }, [
    real([1, 3], 5),
    real([1, 1], 7),
  ])
  expect(summary).toMatchObject({
    type: 'real',
    variant: 'eager',
    samples: 4,
    tokens: 60,
    trainedShare: 0.2,
    samplesPerSecond: 1.5,
    samplesPerSecondRange: [1, 2],
    tokensPerSecond: 22.5,
    padding: 0.25,
    peakBytes: 7,
    steps: 2,
    rounds: 2,
  })
})

describe('peers', () => {
  test('the tuned variant keeps freed memory and warms up longer', () => {
    const command = (variant: 'eager' | 'tuned') =>
      peerCommand('train', { threads: 1 }, { python: 'py', variant, cache: 'c' })
    expect(command('eager').env).not.toHaveProperty('MALLOC_TRIM_THRESHOLD_')
    expect(command('tuned').env).toMatchObject({
      MALLOC_TRIM_THRESHOLD_: '4294967296',
      MALLOC_MMAP_THRESHOLD_: '4294967296',
      TORCHINDUCTOR_CACHE_DIR: 'c',
      OMP_NUM_THREADS: '1',
    })
    expect([peerWarmup('eager', 1), peerWarmup('tuned', 1), peerWarmup('tuned', 9)]).toEqual([
      1, 3, 9,
    ])
  })

  test('without a listener the first failure ends the run', async () => {
    const peer = { python: '/no/such/python', variant: 'eager' as const }
    const item = { name: 'peft-full', spec: { threads: 1, dtype: 'f32' }, peer }
    await expect(runRounds([item], 1, () => {})).rejects.toMatchObject({
      code: 'IO',
      message: expect.stringMatching(/^peft-full f32 eager: .*ENOENT/),
    })
  })
})
