import { describe, expect, it } from 'vitest'
import { type PackOptions, packBatches, Random } from '../../lib/data/index.js'
import { failure, numbers } from './support.js'

function makeSamples(seed: number, count: number, longest = 60) {
  const next = numbers(seed)
  return Array.from({ length: count }, (_, i) => ({
    tokens: new Int32Array(1 + next(longest)),
    labels: new Int32Array(0),
    source: `f:${i + 1}`,
  }))
}

describe('Random', () => {
  it('gives the same numbers on every machine', () => {
    const random = new Random(0, 0)
    // Computed by an independent implementation over Python's integers.
    const expected = [2269751393, 2117667206, 617046934, 3211815148]
    expect(expected.map(() => random.uint32())).toEqual(expected)
  })

  it('tells seeds, epochs and large seeds apart', () => {
    const words = [[0, 0], [0, 1], [1, 0], [-1, 0], [2 ** 32, 0], [2 ** 40 + 1, 0], [1], [0]]
    const seen = new Set(words.map((seed) => new Random(...seed).uint32()))
    expect(seen.size).toBe(words.length)
  })

  it('is uniform: chi-squared over 16 bins of 32,000 numbers, and over permutations', () => {
    const random = new Random(7)
    const bins = new Array<number>(16).fill(0)
    for (let i = 0; i < 32_000; i++) bins[random.below(16)]!++
    const chi = bins.reduce((sum, n) => sum + (n - 2000) ** 2 / 2000, 0)
    expect(chi).toBeLessThan(37.7) // 99.9% of 15 degrees of freedom
    const orders = new Map<string, number>()
    for (let i = 0; i < 6000; i++) {
      const key = random.permutation(3).join()
      orders.set(key, (orders.get(key) ?? 0) + 1)
    }
    expect(orders.size).toBe(6)
    const spread = [...orders.values()].reduce((sum, n) => sum + (n - 1000) ** 2 / 1000, 0)
    expect(spread).toBeLessThan(20.5) // 99.9% of 5 degrees of freedom
  })
})

describe.each<[string, PackOptions]>([
  ['batchSize', { batchSize: 7 }],
  ['maxTokens', { maxTokens: 128 }],
  ['both', { batchSize: 4, maxTokens: 100 }],
  ['in file order', { batchSize: 5, shuffle: false }],
  ['grouped by length', { batchSize: 3, groupByLength: true }],
  ['grouped, by tokens', { maxTokens: 256, groupByLength: true }],
])('packBatches, %s', (_, options) => {
  it.each([1, 2, 3])('every sample once, no limit exceeded, random input %i', (seed) => {
    const samples = makeSamples(seed, 200 + seed)
    const batches = packBatches(samples, { ...options, seed })
    const order = batches.flatMap((batch) => batch.indices)
    expect([...order].sort((a, b) => a - b)).toEqual(samples.map((_, i) => i))
    batches.forEach((batch, i) => {
      expect(batch.position).toBe(i)
      expect(batch.samples).toEqual(batch.indices.map((index) => samples[index]))
      expect(batch.tokens).toBe(batch.samples.reduce((sum, s) => sum + s.tokens.length, 0))
      expect(batch.tokens).toBeLessThanOrEqual(options.maxTokens ?? Number.POSITIVE_INFINITY)
      expect(batch.samples.length).toBeLessThanOrEqual(options.batchSize ?? 1e9)
    })
  })

  it('resumes at any position', () => {
    const samples = makeSamples(9, 90)
    const whole = packBatches(samples, { ...options, seed: 3, epoch: 2 })
    for (const position of [0, 1, 5, whole.length]) {
      const rest = packBatches(samples, { ...options, seed: 3, epoch: 2, position })
      expect(rest).toEqual(whole.slice(position))
    }
  })

  it('orders by seed and epoch', () => {
    const samples = makeSamples(4, 120)
    const order = (seed: number, epoch: number) =>
      packBatches(samples, { ...options, seed, epoch }).flatMap((batch) => batch.indices)
    expect(order(1, 1)).toEqual(order(1, 1))
    if (options.shuffle === false) {
      expect(order(1, 1)).toEqual(samples.map((_, i) => i))
      return
    }
    expect(order(1, 1)).not.toEqual(order(1, 2))
    expect(order(1, 1)).not.toEqual(order(2, 1))
  })
})

describe('packBatches', () => {
  it('puts the longest first and like with like when grouping', () => {
    const samples = makeSamples(5, 400)
    const longest = Math.max(...samples.map((sample) => sample.tokens.length))
    const spread = (groupByLength: boolean) => {
      const batches = packBatches(samples, { batchSize: 8, groupByLength })
      const range = batches.map((batch) => {
        const lengths = batch.samples.map((sample) => sample.tokens.length)
        return Math.max(...lengths) - Math.min(...lengths)
      })
      if (groupByLength) expect(batches[0]!.samples[0]!.tokens.length).toBe(longest)
      return range.reduce((sum, r) => sum + r, 0) / range.length
    }
    expect(spread(true)).toBeLessThan(spread(false) / 4)
  })

  it('drops a short last batch when asked', () => {
    const samples = makeSamples(1, 10)
    expect(packBatches(samples, { batchSize: 4 })).toHaveLength(3)
    expect(packBatches(samples, { batchSize: 4, dropLast: true })).toHaveLength(2)
    expect(packBatches(samples, { batchSize: 5, dropLast: true })).toHaveLength(2)
    expect(packBatches([], { batchSize: 4 })).toEqual([])
  })

  it('names a sample that does not fit, and bad options', async () => {
    const samples = makeSamples(1, 3)
    samples[1]!.tokens = new Int32Array(500)
    const error = await failure(() => packBatches(samples, { maxTokens: 400 }))
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toContain('f:2: 500 tokens')
    for (const options of [
      {},
      { batchSize: 0 },
      { maxTokens: 1.5 },
      { batchSize: 1, position: -1 },
    ]) {
      expect((await failure(() => packBatches(samples, options))).code).toBe('INVALID_ARGUMENT')
    }
  })
})
