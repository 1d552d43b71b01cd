// Growth: which points an axis has, how lines and exponents come about, what is left out.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import type { CaseResult, CaseSpec } from '../../lib/bench/case.js'
import { fitSeries, growthExponent, loadLine, settingOf, stepLine } from '../../lib/bench/growth.js'
import {
  type Axis,
  equalRank,
  growthAxes,
  makeAxes,
  threadCounts,
} from '../../lib/bench/growth-axes.js'
import { runAxis } from '../../lib/bench/growth-run.js'
import { writeRandomModel } from '../../lib/bench/random-model.js'
import { residentMemory } from '../../lib/bench/resident.js'
import type { Case } from '../../lib/bench/run.js'
import { type ShapeConfig, shapes } from '../../lib/bench/shapes.js'
import { packageRoot } from '../../lib/native/load.js'
import { benchLines } from '../bench/support.js'
import { temporaryDirectory } from '../support/directories.js'
import { expectError, s2ft } from './support.js'

const small: ShapeConfig = {
  ...shapes['smollm2-135m']!,
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 64,
  num_attention_heads: 4,
  num_key_value_heads: 1,
  head_dim: 16,
  vocab_size: 100,
}

describe.each([true, false])('axes, quick: %s', (quick) => {
  const axes = makeAxes({ quick, threads: 6, dtype: 'bf16' })

  test('every axis has points of growing x that a model and a step can be made of', () => {
    expect(axes.map((axis) => axis.axis)).toEqual([...growthAxes])
    for (const { series } of axes) {
      for (const one of series) {
        const xs = one.points.map((point) => point.x)
        expect(xs.length).toBeGreaterThan(1)
        expect(xs).toEqual([...new Set(xs)].sort((a, b) => a - b))
        for (const point of one.points) {
          const s = settingOf(one, point)
          expect(s.channels).toBeLessThanOrEqual(s.intermediate_size)
          expect(s.num_attention_heads % s.num_key_value_heads).toBe(0)
          expect(s.num_attention_heads * s.head_dim).toBe(s.hidden_size)
          expect(Object.values(s).every((v) => typeof v !== 'number' || v > 0)).toBe(true)
          for (const count of [s.batch, s.sequence, s.channels, s.rank]) {
            expect(Number.isInteger(count)).toBe(true)
          }
        }
      }
    }
  })

  test('a point changes nothing but its axis', () => {
    const at = (name: string) => axes.find((axis) => axis.axis === name)!
    for (const series of at('tokens').series) {
      for (const point of series.points) {
        const s = settingOf(series, point)
        expect(s.batch * s.sequence).toBe(point.x)
        expect({ ...s, batch: 1, sequence: 1 }).toEqual({ ...series.base, batch: 1, sequence: 1 })
      }
    }
    for (const [axis, key] of [
      ['layers', 'num_hidden_layers'],
      ['threads', 'threads'],
    ] as const) {
      for (const series of at(axis).series) {
        for (const point of series.points) {
          expect(settingOf(series, point)).toEqual({ ...series.base, [key]: point.x })
        }
      }
    }
  })

  test('LoRA has the rank that comes nearest to as many parameters', () => {
    const [own, lora] = axes.find((axis) => axis.axis === 'share')!.series
    own!.points.forEach((point, i) => {
      const s = settingOf(own!, point)
      const r = settingOf(lora!, lora!.points[i]!)
      const perRank = 3 * (s.hidden_size + s.intermediate_size)
      const difference = Math.abs(r.rank * perRank - 3 * s.channels * s.hidden_size)
      expect(r.rank === 1 || difference <= perRank / 2).toBe(true)
      expect(s.channels / s.intermediate_size).toBeCloseTo(point.x, 2)
    })
  })
})

test('the full axes reach as far as they should', () => {
  const ends = makeAxes({ quick: false, threads: 2, dtype: 'bf16' }).map((axis) => {
    const { points } = axis.series[0]!
    return [points[0]!.x, points.at(-1)!.x]
  })
  expect(ends.slice(0, 5)).toEqual([
    [256, 16384],
    [5, 30],
    [256, 2048],
    [0.005, 1],
    [1, 2],
  ])
  expect(ends[5]![0]).toBeLessThan(50e6)
  expect(ends[5]![1]).toBeGreaterThan(2.5e9)
})

test('small counts', () => {
  expect([1, 2, 3, 8].map(threadCounts)).toEqual([[1], [1, 2], [1, 2, 3], [1, 2, 4, 8]])
  // 64 channels of width 576 beside an intermediate of 1536: 110592 values, 6336 a rank.
  expect(equalRank(shapes['smollm2-135m']!, 64)).toBe(17)
})

describe('exponents', () => {
  test('are the slope in logarithms', () => {
    const square = [1, 2, 4].map((x) => [x, 3 * x * x] as const)
    expect(growthExponent(square)).toBeCloseTo(2, 12)
    // Least squares by hand: log y = 0, 1, 1 over log x = 0, 1, 2 (base 2) has slope 1/2.
    const bent = [
      [1, 1],
      [2, 2],
      [4, 2],
    ] as const
    expect(growthExponent(bent)).toBeCloseTo(0.5, 12)
  })

  test('need two places and values above 0', () => {
    expect(growthExponent([[1, 1]])).toBeUndefined()
    for (const [x, y] of [
      [2, 0],
      [1, 3],
    ] as const) {
      const points = [[1, 1] as const, [x, y] as const]
      expect(growthExponent(points)).toBeUndefined()
    }
  })

  test('are taken over the last three points of a series, of what was measured', () => {
    const axis = { axis: 'layers', unit: 'layers', measures: 'step', series: [] } as Axis
    const points = [1, 2, 4, 8].map((x) => ({
      series: 'a',
      x,
      seconds: x === 1 ? 1000 : x,
      stepBytes: x * x,
      memoryBytes: null,
    }))
    const fits = fitSeries(axis, 'a', points as never)
    expect(fits.map((f) => [f.quantity, f.from, f.to, f.points])).toEqual([
      ['seconds', 2, 8, 3],
      ['stepBytes', 2, 8, 3],
    ])
    expect(fits[0]!.exponent).toBeCloseTo(1, 12)
    expect(fits[1]!.exponent).toBeCloseTo(2, 12)
    expect(fitSeries(axis, 'b', points as never)).toEqual([])
  })
})

const place = { axis: 'tokens' as const, series: 'a', x: 20, unit: 'tokens' }
const setting = {
  ...small,
  method: 's2ft' as const,
  batch: 2,
  sequence: 10,
  channels: 8,
  rank: 4,
  threads: 1,
}
const item = { name: 's2ft', spec: { batch: 2, sequence: 10, dtype: 'f32' } } as Case
const plan = (total: number) => ({ total }) as CaseResult['plan'] & object
const result = (seconds: number[], extra: object): CaseResult => ({
  seconds,
  trainable: 7,
  peakBytes: 100,
  device: 'cpu',
  threads: 1,
  loss: 1,
  plan: plan(110),
  baseBytes: 40,
  startBytes: 60,
  ...extra,
})

test('a point has the medians of its rounds', () => {
  const rounds = [result([1, 3], {}), result([2], { peakBytes: 120, plan: plan(108) })]
  const line = stepLine(place, setting, item, rounds, 10)
  expect(line).toMatchObject({
    type: 'growth',
    axis: 'tokens',
    x: 20,
    tokens: 20,
    seconds: 2,
    secondsRange: [1, 3],
    tokensPerSecond: 10,
    peakBytes: 120,
    plannedBytes: 109,
    memoryBytes: 70,
    stepBytes: 50,
    channels: 8,
    rank: null,
  })
  // (110 / 100 - 1 and 108 / 120 - 1) have the median 0.
  expect((line as { planDifference: number }).planDifference).toBeCloseTo(0, 12)
})

test('what the system does not tell is null', () => {
  const line = stepLine(place, setting, item, [result([1], { peakBytes: null })], undefined)
  expect(line).toMatchObject({ peakBytes: null, stepBytes: null, planDifference: null })
})

test('a point that does not fit in any round is told with what it needs', () => {
  const rounds = [result([1], {}), result([], { available: 90, peakBytes: null })]
  expect(stepLine(place, setting, item, rounds, 10)).toEqual({
    type: 'growth-skipped',
    ...place,
    lacks: 'memory',
    neededBytes: 110,
    availableBytes: 90,
  })
})

test('loading is told by what it added', () => {
  const kinds = (total: number, own: number | null) => ({ total, own, mapped: 5 })
  const load = (seconds: number, own: number | null) => ({
    seconds,
    fileBytes: 800,
    weightBytes: 790,
    before: kinds(100, 50),
    after: kinds(900, own),
    peakBytes: 950,
    device: 'cpu',
    threads: 1,
  })
  const line = loadLine(place, setting, 'f32', [load(1, 840), load(3, 840)])
  expect(line).toMatchObject({
    axis: 'load',
    seconds: 2,
    bytesPerSecond: 400,
    residentBytes: 800,
    privateBytes: 790,
    mappedBytes: 0,
    peakBytes: 850,
  })
  expect(loadLine(place, setting, 'f32', [load(1, null)]).privateBytes).toBeNull()
})

test('resident memory by kind, as the kernel tells it', () => {
  const file = join(temporaryDirectory(), 'status')
  writeFileSync(
    file,
    'VmRSS:\t  300 kB\nRssAnon:\t 100 kB\nRssFile:\t 150 kB\nRssShmem:\t  50 kB\n',
  )
  const [total, own, mapped] = [300 * 1024, 100 * 1024, 200 * 1024]
  expect(residentMemory(file)).toEqual({ total, own, mapped })
  const unknown = residentMemory(join(temporaryDirectory(), 'none'))
  expect(unknown).toMatchObject({ own: null, mapped: null })
  expect(unknown.total).toBeGreaterThan(1e6)
})

test.each(['step', 'load'] as const)(
  'weights beyond all memory are not even written: %s',
  async (measures) => {
    const base = { ...setting, vocab_size: 1e12 }
    const axis: Axis = {
      axis: measures === 'load' ? 'load' : 'layers',
      unit: 'layers',
      measures,
      series: [{ name: 'huge', base, points: [{ x: 3, change: { num_hidden_layers: 3 } }] }],
    }
    const scratch = mkdtempSync(join(temporaryDirectory(), 'scratch-'))
    const options = {
      dtype: 'bf16',
      device: 'cpu',
      arithmetic: 'auto',
      rounds: 1,
      warmup: 0,
      steps: 1,
      seconds: 1,
    } as const
    const lines = await runAxis(axis, options, scratch, () => {})
    expect(lines).toMatchObject([{ type: 'growth-skipped', series: 'huge', x: 3, lacks: 'memory' }])
    expect(readdirSync(scratch)).toEqual([])
  },
)

test('a case whose plan does not fit says so and takes no step', async () => {
  const directory = temporaryDirectory()
  await writeRandomModel(directory, small, 'f32')
  const { num_hidden_layers: _, ...rest } = setting
  const spec: CaseSpec = {
    ...rest,
    model: directory,
    dtype: 'f32',
    device: 'cpu',
    // Some terabytes of activations.
    batch: 1,
    sequence: 1 << 24,
    warmup: 0,
    steps: 1,
    vocabulary: small.vocab_size,
    intermediate: small.intermediate_size,
    onlyIfFits: true,
  }
  const script = join(packageRoot, 'dist', 'bench', 'case.js')
  const ran = spawnSync(process.execPath, ['--expose-gc', script, JSON.stringify(spec)])
  expect(ran.status, ran.stderr.toString()).toBe(0)
  const found = JSON.parse(ran.stdout.toString()) as CaseResult
  expect(found).toMatchObject({ seconds: [], peakBytes: null, loss: null })
  expect(found.plan!.total).toBeGreaterThan(1e12)
  expect(found.available).toBeLessThan(found.plan!.total)
})

test('the command measures every axis, a JSON object a line', () => {
  const { ran, printed: points, kept } = benchLines(['bench', 'growth', '--quick', '--rounds', '1'])
  expect(ran.status, ran.stderr).toBe(0)
  expect(points).toEqual(kept.filter((line) => line.type === 'growth'))
  expect([...new Set(points.map((line) => line.axis))]).toEqual([...growthAxes])
  expect(new Set(kept.map((line) => line.type))).toEqual(new Set(['run', 'growth', 'growth-fit']))
  for (const p of points) {
    expect(p.seconds).toBeGreaterThan(0)
    expect(p.peakBytes).toBeGreaterThan(0)
    if (p.axis === 'load') continue
    expect(p.tokensPerSecond).toBeCloseTo((p.tokens as number) / (p.seconds as number), 3)
    expect(p.plannedBytes).toBeGreaterThan(0)
    expect(p.memoryBytes).toBeGreaterThan(p.stepBytes as number)
  }
  const loads = points.filter((line) => line.axis === 'load')
  for (const p of loads) {
    expect(p.x).toBe(p.weightBytes)
    // One copy of the weights: what stays and what was held at most, but for a few megabytes.
    for (const held of [p.privateBytes, p.peakBytes] as (number | null)[]) {
      if (held !== null) expect(held - (p.fileBytes as number)).toBeLessThan(16e6)
    }
  }
})

test.each([
  [['--axis', 'depth'], 'USAGE', /expected tokens, layers, width, share, threads, load/],
  [['--seconds', '0'], 'USAGE', /above 0/],
  [['--device', 'cuda'], 'DEVICE_UNAVAILABLE', /cpu backend only/],
] as [string[], string, RegExp][])('%j is refused', (args, code, message) => {
  expectError(s2ft(['bench', 'growth', ...args]), code, message)
})
