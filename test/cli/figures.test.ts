// The numbers that the command line computes by itself: intervals, operations, summaries.
import { describe, expect, test } from 'vitest'
import type { CaseResult } from '../../lib/bench/case.js'
import { type BenchMethod, stepOperations } from '../../lib/bench/operations.js'
import type { Case } from '../../lib/bench/run.js'
import { shapes } from '../../lib/bench/shapes.js'
import { ratio, summarise } from '../../lib/bench/summary.js'
import { byteCount } from '../../lib/cli/parse.js'
import { nearest } from '../../lib/cli/suggest.js'
import { meanLossInterval, wilsonInterval } from '../../lib/eval/interval.js'
import { bytes, duration, interval, percent } from '../../lib/report/format.js'

describe('intervals', () => {
  // Wilson's score interval, worked by hand from its formula.
  test.each([
    [0, 10, 0, 0.2775],
    [10, 10, 0.7225, 1],
    [5, 10, 0.2366, 0.7634],
    [81, 263, 0.2553, 0.3662],
  ])('%d of %d', (correct, count, low, high) => {
    const [a, b] = wilsonInterval(correct, count)
    expect(a).toBeCloseTo(low, 4)
    expect(b).toBeCloseTo(high, 4)
  })

  test('none and all right end exactly at 0 and 1', () => {
    for (let n = 1; n < 50; n++) {
      expect(wilsonInterval(0, n)[0]).toBe(0)
      expect(wilsonInterval(n, n)[1]).toBe(1)
    }
  })

  test('no sample says nothing', () => {
    expect(wilsonInterval(0, 0)).toEqual([0, 1])
  })

  test('the loss of equal samples is known exactly, of unequal ones not', () => {
    const equal = Array.from({ length: 5 }, () => ({ lossSum: 6, tokens: 3 }))
    expect(meanLossInterval(equal)).toEqual([2, 2])
    const unequal = [
      { lossSum: 1, tokens: 1 },
      { lossSum: 3, tokens: 1 },
    ]
    const [low, high] = meanLossInterval(unequal)
    // Two samples: standard error sqrt(2 / 1 * 2) / 2 = 1.
    expect(low).toBeCloseTo(2 - 1.96, 3)
    expect(high).toBeCloseTo(2 + 1.96, 3)
  })

  test('one sample tells no spread: nothing bounds its loss', () => {
    const bounds = meanLossInterval([{ lossSum: 3, tokens: 2 }])
    expect(bounds).toEqual([-Infinity, Infinity])
    const show = (value: number) => value.toFixed(2)
    expect(interval(bounds, show)).toBe('-')
    expect(interval([1, 2.345], show)).toBe('[1.00, 2.35]')
  })
})

describe('operations of a step, in GFLOP', () => {
  // By an independent count in Python of the same products, 4 x 256 and 1 x 1024 tokens.
  const expected: [string, BenchMethod, number, number][] = [
    ['smollm2-135m', 's2ft', 578.763620352, 658.488950784],
    ['smollm2-135m', 'lora3', 590.654472192, 670.379802624],
    ['smollm2-135m', 'lora7', 606.886428672, 688.423698432],
    ['smollm2-135m', 'dora3', 593.202511872, 672.927842304],
    ['smollm2-135m', 'dora7', 610.283814912, 691.821084672],
    ['smollm2-135m', 'loreft', 564.000915456, 648.343240704],
    ['smollm2-135m', 'full', 853.423423488, 934.960693248],
    ['smollm2-135m', 'lisa', 650.486218752, 732.023488512],
    ['llama-1b-4l', 's2ft', 952.408997888, 984.621252608],
    ['llama-1b-4l', 'lora3', 958.247469056, 990.459723776],
    ['llama-1b-4l', 'lora7', 1021.464018944, 1060.118724608],
    ['llama-1b-4l', 'dora3', 962.67665408, 994.8889088],
    ['llama-1b-4l', 'dora7', 1027.235381248, 1065.890086912],
    ['llama-1b-4l', 'loreft', 910.973468672, 954.129711104],
    ['llama-1b-4l', 'full', 1523.639648256, 1562.29435392],
    ['llama-1b-4l', 'lisa', 1338.956054528, 1377.610760192],
  ]
  test.each(expected)('%s %s', (shape, method, wide, long) => {
    const count = (batch: number, sequence: number) =>
      stepOperations(shapes[shape]!, method, batch, sequence, { rank: 16, channels: 64 }) / 1e9
    expect(count(4, 256)).toBeCloseTo(wide, 6)
    expect(count(1, 1024)).toBeCloseTo(long, 6)
  })
})

test('a summary pools steps by their median; ratios pair rounds', () => {
  const result = (seconds: number[]): CaseResult => ({
    seconds,
    trainable: 7,
    peakBytes: 100,
    peakGflops: 50,
    device: 'cpu',
    threads: 2,
    loss: 1,
  })
  const item = { name: 's2ft', spec: { batch: 2, sequence: 10, dtype: 'f32' } } as Case
  const fast = [result([1, 2]), result([2, 4])]
  const summary = summarise(item, 'm', fast, 100, 50)
  expect(summary).toMatchObject({
    tokensPerSecond: 10,
    tokensPerSecondRange: [5, 20],
    shareOfPeak: 1,
    shareOfPeakAround: null,
    peakBytes: 100,
    steps: 4,
    rounds: 2,
  })
  const disturbed = { ...result([1, 4]), gflopsAround: [100, 100, 25] }
  // 100 of 100 GFLOP/s, then 25 of 62.5: what the probe at the start found does not matter.
  expect(summarise(item, 'm', [disturbed], 100, 200).shareOfPeakAround).toBeCloseTo(0.7, 12)
  const slow = [result([3, 3]), result([12, 12])]
  expect(ratio(slow, fast, (r) => r.seconds[0]!)).toEqual({ median: 4.5, range: [3, 6] })
})

describe('words and units', () => {
  test.each([
    ['8GB', 8e9],
    ['1.5GiB', 1.5 * 1024 ** 3],
    ['500 MB', 5e8],
    ['1234', 1234],
  ])('%s', (text, size) => expect(byteCount(text)).toBe(size))

  test('figures as people read them', () => {
    expect([bytes(999), bytes(1536), bytes(2.5e9)]).toEqual(['999 B', '1.54 kB', '2.50 GB'])
    expect([duration(42), duration(185), duration(3725)]).toEqual(['42s', '3m 05s', '1h 02m'])
    expect([percent(0.5), percent(0.00834)]).toEqual(['50%', '0.83%'])
  })

  test('the nearest word is one that could be meant', () => {
    expect(nearest('lerning_rate', ['learningRate', 'lrScheduler'])).toBe('learningRate')
    expect(nearest('colour', ['learningRate', 'seed'])).toBeUndefined()
  })
})
