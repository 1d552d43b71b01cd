// The study's arithmetic: intervals against known values, the search for rates, its plan.
import { describe, expect, test } from 'vitest'
import { Random } from '../../lib/data/random.js'
import { caseKey } from '../../lib/study/cases.js'
import type { CaseLine } from '../../lib/study/lines.js'
import { type Planned, parts, walkPlan } from '../../lib/study/plan.js'
import { bestRate, firstRates, nextRate } from '../../lib/study/rates.js'
import { compare, type Row, shownDifferences } from '../../lib/study/rows.js'
import { presets, studySettings } from '../../lib/study/settings.js'
import {
  deviation,
  jointLevel,
  pairedDifference,
  type SeedItems,
  seedMean,
  tQuantile,
} from '../../lib/study/statistics.js'
import type { Metric } from '../../lib/study/tracks.js'

/** Of a table of Student's distribution, two-sided. */
const T2 = 4.30265
const T4 = 2.77645

describe('intervals', () => {
  test('quantiles are those of the tables', () => {
    expect(tQuantile(0.95, 2)).toBeCloseTo(T2, 5)
    expect(tQuantile(0.95, 4)).toBeCloseTo(T4, 5)
    expect(tQuantile(0.99, 30)).toBeCloseTo(2.75, 4)
    expect(tQuantile(0.95, 1e6)).toBeCloseTo(1.95997, 4)
    expect(jointLevel(5)).toBeCloseTo(0.99, 12)
  })

  test('a mean over seeds has Student’s interval over their means', () => {
    const { mean, interval } = seedMean([
      [0, 2],
      [1, 3],
      [2, 4],
    ])
    expect(mean).toBe(2)
    const half = T2 / Math.sqrt(3)
    expect(interval![0]).toBeCloseTo(2 - half, 4)
    expect(interval![1]).toBeCloseTo(2 + half, 4)
    expect(seedMean([[1, 3]])).toEqual({ mean: 2, interval: undefined })
  })

  test('where only seeds differ, a difference is a one-sample t over seeds', () => {
    const zero = [0, 0, 0]
    const { mean, interval } = pairedDifference(
      [zero.map(() => 1), zero.map(() => 2), zero.map(() => 3)],
      [zero, zero, zero],
    )
    expect(mean).toBe(2)
    expect(interval![1] - 2).toBeCloseTo(T2 / Math.sqrt(3), 4)
  })

  test('where only items differ, it is one over items', () => {
    const items = [1, 2, 3, 4, 5]
    const { mean, interval } = pairedDifference(
      [items, items],
      [items.map(() => 1), items.map(() => 1)],
    )
    expect(mean).toBe(2)
    expect(interval![1] - 2).toBeCloseTo(T4 * Math.sqrt(2.5 / 5), 4)
  })

  test('equal sides differ by exactly nothing; too few values have no interval', () => {
    const items = [1, 2, 4]
    expect(pairedDifference([items, items], [items, items])).toEqual({ mean: 0, interval: [0, 0] })
    expect(pairedDifference([items], [[0, 0, 0]]).interval).toBeUndefined()
    expect(() => pairedDifference([items], [[1]])).toThrow(RangeError)
  })

  test('a difference’s interval holds the truth about as often as it says', () => {
    const random = new Random(7)
    const normal = () => {
      const [a, b] = [random.uint32(), random.uint32()].map((word) => (word + 1) / 2 ** 32)
      return Math.sqrt(-2 * Math.log(a!)) * Math.cos(2 * Math.PI * b!)
    }
    const [runs, seeds, items, truth] = [2000, 3, 20, 0.3]
    let held = 0
    for (let run = 0; run < runs; run++) {
      const ofItems = Array.from({ length: items }, () => normal())
      const a: SeedItems = Array.from({ length: seeds }, () => {
        const ofSeed = 0.2 * normal()
        return ofItems.map((value) => truth + value + ofSeed + 0.5 * normal())
      })
      const { interval } = pairedDifference(
        a,
        a.map((row) => row.map(() => 0)),
      )
      if (interval![0] <= truth && truth <= interval![1]) held++
    }
    // The error is an upper estimate, so the interval may hold more often, not less.
    expect(held / runs).toBeGreaterThan(0.94)
    expect(held / runs).toBeLessThan(0.99)
  })

  test('a standard deviation has the interval of the chi-square distribution', () => {
    const { mean, interval } = deviation([1, 2, 3, 4, 5])
    expect(mean).toBeCloseTo(Math.sqrt(2.5), 12)
    expect(interval![0]).toBeCloseTo(Math.sqrt(10 / 11.14329), 4)
    expect(interval![1]).toBeCloseTo(Math.sqrt(10 / 0.484419), 3)
  })
})

describe('learning rates', () => {
  test('the search goes outwards from an edge, and stops inside', () => {
    expect(firstRates(1e-3)).toEqual([3e-4, 1e-3, 3e-3])
    expect(() => firstRates(2e-3)).toThrow(/found 0.002/)
    const tried = new Map([
      [3e-4, 3],
      [1e-3, 2],
      [3e-3, 1],
    ])
    expect(nextRate(tried)).toBe(1e-2)
    tried.set(1e-2, Number.POSITIVE_INFINITY)
    expect(bestRate(tried)).toBe(3e-3)
    expect(nextRate(tried)).toBeUndefined()
    tried.set(3e-4, 0.5)
    expect(nextRate(tried)).toBe(1e-4)
  })

  test('where all diverged it goes down', () => {
    const tried = new Map(firstRates(1e-3).map((rate) => [rate, Number.POSITIVE_INFINITY]))
    expect(bestRate(tried)).toBeUndefined()
    expect(nextRate(tried)).toBe(1e-4)
  })
})

describe('the plan', () => {
  const planned = async (preset: (typeof presets)[number], seeds: number) => {
    const all: Planned[] = []
    await walkPlan({ settings: studySettings(preset), seeds, only: parts }, (one) => {
      all.push(one)
      return 'pending'
    })
    return all
  }

  test.each(presets)(
    '%s: equal keys are equal cases, and S²FT’s runs are shared',
    async (preset) => {
      const all = await planned(preset, 3)
      const cases = new Map(all.map((one) => [caseKey(one.case), one.case]))
      for (const one of all) expect(cases.get(caseKey(one.case))).toEqual(one.case)
      const parts = (row: string) =>
        new Set(all.filter((one) => caseKey(one.case) === row).map(({ part }) => part))
      const shared = 'math s2ft rate 0.003 seed 0 answers'
      expect(parts(shared)).toEqual(
        new Set(['methods', 'selection', 'allocation', 'components', 'seeds', 'adapters']),
      )
    },
  )

  test('rows of a table have every seed', async () => {
    const all = await planned('cpu', 4)
    const rows = new Map<string, number>()
    for (const { part, track, row } of all.filter(({ part }) => part === 'methods')) {
      const key = `${part} ${track} ${row}`
      rows.set(key, (rows.get(key) ?? 0) + 1)
    }
    for (const [key, count] of rows)
      expect([key, count]).toEqual([key, key.endsWith('base') ? 1 : 4])
  })

  test('of one track only, and then no fusion', async () => {
    const whole = await planned('full', 3)
    const one: Planned[] = []
    const options = { settings: studySettings('full'), seeds: 3, only: parts }
    await walkPlan({ ...options, tracks: ['commonsense'] }, (planned) => {
      one.push(planned)
      return 'pending'
    })
    const single = whole.filter(({ part }) => part !== 'fusion' && part !== 'adapters')
    expect(one).toEqual(
      expect.arrayContaining(single.filter(({ track }) => track === 'commonsense')),
    )
    expect(new Set(one.map(({ track }) => track))).toEqual(new Set(['commonsense']))
    expect(new Set(one.map(({ part }) => part))).not.toContain('fusion')
  })

  test('a method whose rates all failed has no runs', async () => {
    const rows: string[] = []
    await walkPlan({ settings: studySettings('cpu'), seeds: 2, only: ['methods'] }, (one) => {
      if (one.part === 'methods') rows.push(one.row)
      return 'failed'
    })
    expect(rows).toEqual(['base', 'base'])
  })
})

describe('what is shown', () => {
  const metric: Metric = { name: 'm', quantity: 'loss', sets: ['a', 'b'], better: 'lower' }
  const row = (name: string, runs: number[][]): Row => ({
    ...{ part: 'methods', track: 'math', name, learningRate: 1 },
    runs: runs.map((items, seed) => ({
      seed,
      line: {
        ...{ type: 'case', key: `${name} ${seed}`, kind: 'train', trainable: 1, steps: 1 },
        ...{ tokens: 1, lossFirst: 1, lossLast: 1, diverged: false, trainSeconds: 1, seconds: 1 },
        scores: { a: { loss: items.slice(0, 1) }, b: { loss: items.slice(1) } },
      } as CaseLine,
    })),
  })

  test('only differences whose interval leaves out zero', () => {
    const reference = row('s2ft', [
      [1, 2, 3],
      [1.1, 2.1, 3.1],
      [0.9, 1.9, 2.9],
    ])
    const moved = (by: number, name: string) =>
      row(
        name,
        reference.runs.map(({ line }, s) =>
          [...line.scores.a!.loss!, ...line.scores.b!.loss!].map((v, i) => v + by + 0.01 * (s + i)),
        ),
      )
    const noisy = row('noisy', [
      [2, 1, 4],
      [0, 3, 2],
      [1, 2, 3],
    ])
    const rows = [reference, moved(-1, 'lower'), moved(1, 'higher'), noisy]
    const [shown] = shownDifferences(compare(rows, reference, [metric]))
    expect(shown!.better.map(({ row: found }) => found.name)).toEqual(['lower'])
    expect(shown!.worse.map(({ row: found }) => found.name)).toEqual(['higher'])
    expect(shown!.better[0]!.difference.firm).toBe(true)
  })

  test('seeds that one side lacks do not count', () => {
    const reference = row('s2ft', [
      [1, 2],
      [1, 2],
    ])
    const other = row('lora', [[2, 3]])
    const { rows } = compare([reference, other], reference, [metric])
    expect(rows[0]!.differences[0]).toEqual({
      mean: 1,
      interval: undefined,
      shown: false,
      firm: false,
    })
  })
})
