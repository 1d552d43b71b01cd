// Intervals and tests of differences against values worked out elsewhere.
import { describe, expect, test } from 'vitest'
import { meanInterval, wilsonInterval } from '../../lib/eval/interval.js'
import { mcnemar, pairedDifference, pairedLoss } from '../../lib/eval/paired.js'

const answers = (onlyA: number, onlyB: number, both = 0, neither = 0) => ({
  ...{ onlyA, onlyB, both, neither },
})

describe("McNemar's exact test", () => {
  // 2 * sum of binomial(n, 0..fewer) / 2^n, by hand.
  test.each([
    [0, 0, 1],
    [1, 0, 1],
    [5, 0, 2 / 32],
    [10, 2, (2 * (1 + 12 + 66)) / 4096],
    [2, 10, (2 * (1 + 12 + 66)) / 4096],
    [7, 7, 1],
  ])('%i against %i: p = %f', (a, b, p) => {
    expect(mcnemar(answers(a, b, 3, 4))).toBeCloseTo(p, 12)
  })

  test('does not underflow where answers differ by thousands', () => {
    expect(mcnemar(answers(5000, 5000))).toBe(1)
    const p = mcnemar(answers(4900, 5100))
    // The normal approximation: (200 - 1) / sqrt(10000) = 1.99 standard deviations.
    expect(p).toBeGreaterThan(0.045)
    expect(p).toBeLessThan(0.048)
  })
})

test('neither one pair of losses nor a mean over such a task is bounded', () => {
  const one = pairedLoss([{ lossA: 3, lossB: 2, tokens: 4 }])
  expect(one).toEqual({ value: -0.25, interval: [-Infinity, Infinity] })
  const mean = meanInterval([one, { value: 1, interval: [0, 2] }])
  expect(mean.interval).toEqual([-Infinity, Infinity])
})

describe('paired difference of accuracies', () => {
  test('the formula, worked out', () => {
    const { value, interval } = pairedDifference(answers(3, 12, 50, 35))
    expect(value).toBeCloseTo(0.09, 12)
    const [p, q] = [13 / 102, 4 / 102]
    const half = 1.959963984540054 * Math.sqrt((p + q - (p - q) ** 2) / 102)
    expect(interval[0]).toBeCloseTo(p - q - half, 12)
    expect(interval[1]).toBeCloseTo(p - q + half, 12)
  })

  test('covers the true difference in about 95 of 100 draws', () => {
    let state = 12345
    const random = () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      return state / 2 ** 32
    }
    let covered = 0
    const draws = 4000
    for (let i = 0; i < draws; i++) {
      const found = { both: 0, onlyA: 0, onlyB: 0, neither: 0 }
      for (let k = 0; k < 100; k++) {
        const u = random()
        if (u < 0.5) found.both++
        else if (u < 0.6) found.onlyA++
        else if (u < 0.78) found.onlyB++
        else found.neither++
      }
      const [low, high] = pairedDifference(found).interval
      if (low <= 0.08 && 0.08 <= high) covered++
    }
    expect(covered / draws).toBeGreaterThan(0.935)
    expect(covered / draws).toBeLessThan(0.97)
  })

  test('is not empty where no answer differs', () => {
    const { value, interval } = pairedDifference(answers(0, 0, 10, 0))
    expect(value).toBe(0)
    expect(interval[0]).toBeLessThan(0)
    expect(interval[1]).toBeGreaterThan(0)
  })
})

test('a paired difference of losses weighs samples by their tokens', () => {
  const samples = [
    { lossA: 2, lossB: 1, tokens: 1 },
    { lossA: 6, lossB: 9, tokens: 3 },
  ]
  const { value, interval } = pairedLoss(samples)
  expect(value).toBeCloseTo(0.5, 12)
  expect(interval[0]).toBeLessThan(0.5)
  expect(interval[1]).toBeGreaterThan(0.5)
  const same = samples.map((sample) => ({ ...sample, lossB: sample.lossA }))
  expect(pairedLoss(same)).toEqual({ value: 0, interval: [0, 0] })
})

describe('mean of estimates', () => {
  test('one estimate keeps its interval', () => {
    const interval = wilsonInterval(3, 10)
    const mean = meanInterval([{ value: 0.3, interval }])
    expect(mean.value).toBe(0.3)
    expect(mean.interval[0]).toBeCloseTo(interval[0], 12)
    expect(mean.interval[1]).toBeCloseTo(interval[1], 12)
  })

  test('k estimates alike shrink it by the square root of k', () => {
    const part = { value: 0.5, interval: [0.4, 0.7] as [number, number] }
    const { value, interval } = meanInterval(Array.from({ length: 4 }, () => part))
    expect(value).toBe(0.5)
    expect(interval[0]).toBeCloseTo(0.45, 12)
    expect(interval[1]).toBeCloseTo(0.6, 12)
  })

  test('stays open where all answers of all parts are right', () => {
    const part = { value: 1, interval: wilsonInterval(20, 20) }
    const { interval } = meanInterval([part, part])
    expect(interval[0]).toBeLessThan(1)
    expect(interval[1]).toBe(1)
  })
})
