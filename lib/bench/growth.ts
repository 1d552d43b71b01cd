// The lines of `s2ft bench growth`, and the exponents that tell how a quantity grows.
import type { CaseResult } from './case.js'
import type { Axis, GrowthAxis, Point, Series, Setting } from './growth-axes.js'
import type { LoadResult } from './load-case.js'
import { type MemoryFigures, memoryFigures, stepSeconds } from './memory.js'
import { stepOperations } from './operations.js'
import type { Case } from './run.js'
import { type CaseSummary, median, slope, summarise } from './summary.js'

/** Where a point stands, in every line of it. */
interface Place {
  axis: GrowthAxis
  series: string
  x: number
  unit: string
}

/** The shape, as far as axes change it. */
interface Sizes {
  layers: number
  hidden: number
  intermediate: number
  vocabulary: number
}

/** A point of every axis but load. */
export interface StepGrowth extends Place, Sizes, Omit<CaseSummary, 'type'>, MemoryFigures {
  type: 'growth'
  tokens: number
  /** Null for LoRA; `rank` is null for S²FT. */
  channels: number | null
  rank: number | null
  seconds: number
  secondsRange: [number, number]
}

/** A point of the axis load. Resident bytes are beyond those before loading. */
export interface LoadGrowth extends Place, Sizes {
  type: 'growth'
  axis: 'load'
  dtype: string
  device: string
  threads: number
  fileBytes: number
  weightBytes: number
  seconds: number
  secondsRange: [number, number]
  bytesPerSecond: number
  residentBytes: number
  /** RssAnon, and RssFile with RssShmem; null where the system does not tell. */
  privateBytes: number | null
  mappedBytes: number | null
  /** Most held at once while loading. */
  peakBytes: number | null
  rounds: number
}

export type GrowthPoint = StepGrowth | LoadGrowth

/** A point that was not measured. */
export interface GrowthSkipped extends Place {
  type: 'growth-skipped'
  /** What there is too little of. */
  lacks: 'memory' | 'disk'
  neededBytes: number
  availableBytes: number
}

/** quantity ~ x^exponent: the slope in logarithms, least squares over the last points. */
export interface GrowthFit extends Omit<Place, 'x'> {
  type: 'growth-fit'
  quantity: 'seconds' | 'stepBytes' | 'memoryBytes' | 'privateBytes'
  exponent: number
  points: number
  from: number
  to: number
}

export type GrowthLine = GrowthPoint | GrowthSkipped | GrowthFit

const FITTED_POINTS = 3

export function settingOf(series: Series, point: Point): Setting {
  return { ...series.base, ...point.change }
}

export function placeOf(axis: Axis, series: Series, { x }: Point): Place {
  return { axis: axis.axis, series: series.name, x, unit: axis.unit }
}

function sizesOf(setting: Setting): Sizes {
  return {
    layers: setting.num_hidden_layers,
    hidden: setting.hidden_size,
    intermediate: setting.intermediate_size,
    vocabulary: setting.vocab_size,
  }
}

/**
 * A measured point, or one whose plan did not fit in memory. `peakGflops` is the best of the run
 * with as many threads.
 */
export function stepLine(
  place: Place,
  setting: Setting,
  item: Case,
  results: readonly CaseResult[],
  peakGflops: number | undefined,
): StepGrowth | GrowthSkipped {
  const refused = results.find((r) => r.available !== undefined)
  if (refused) {
    const [neededBytes, availableBytes] = [refused.plan!.total, refused.available!]
    return { type: 'growth-skipped', ...place, lacks: 'memory', neededBytes, availableBytes }
  }
  const { method, batch, sequence, channels, rank } = setting
  const gflop = stepOperations(setting, method, batch, sequence, setting) / 1e9
  const name = `llama-${setting.num_hidden_layers}x${setting.hidden_size}`
  return {
    ...summarise(item, name, results, gflop, peakGflops),
    type: 'growth',
    ...place,
    ...sizesOf(setting),
    tokens: batch * sequence,
    channels: method === 's2ft' ? channels : null,
    rank: method.startsWith('lora') ? rank : null,
    ...stepSeconds(results),
    ...memoryFigures(results),
  }
}

export function loadLine(
  place: Place,
  setting: Setting,
  dtype: string,
  results: readonly LoadResult[],
): LoadGrowth {
  const seconds = results.map((r) => r.seconds)
  const first = results[0]!
  const beyond = (of: (r: LoadResult) => [number | null, number | null]) => {
    const values = results.map(of)
    if (values.some(([after, before]) => after === null || before === null)) return null
    return median(values.map(([after, before]) => after! - before!))
  }
  return {
    type: 'growth',
    ...place,
    axis: 'load',
    ...sizesOf(setting),
    dtype,
    device: first.device,
    threads: first.threads,
    fileBytes: first.fileBytes,
    weightBytes: first.weightBytes,
    seconds: median(seconds),
    secondsRange: [Math.min(...seconds), Math.max(...seconds)],
    bytesPerSecond: first.fileBytes / median(seconds),
    residentBytes: beyond((r) => [r.after.total, r.before.total])!,
    privateBytes: beyond((r) => [r.after.own, r.before.own]),
    mappedBytes: beyond((r) => [r.after.mapped, r.before.mapped]),
    peakBytes: beyond((r) => [r.peakBytes, r.before.total]),
    rounds: results.length,
  }
}

/** Slope of log y over log x; undefined with fewer than two points above 0. */
export function growthExponent(points: readonly (readonly [number, number])[]): number | undefined {
  if (points.length < 2 || points.some(([x, y]) => !(x > 0 && y > 0))) return undefined
  return slope(points.map(([x, y]) => [Math.log(x), Math.log(y)] as const))
}

/** The exponents of one series, over its last points. */
export function fitSeries(axis: Axis, series: string, points: readonly GrowthPoint[]): GrowthFit[] {
  const quantities =
    axis.measures === 'load'
      ? (['seconds', 'privateBytes'] as const)
      : (['seconds', 'stepBytes', 'memoryBytes'] as const)
  const last = points.filter((p) => p.series === series).slice(-FITTED_POINTS)
  return quantities.flatMap((quantity): GrowthFit[] => {
    const of = (p: Partial<Record<typeof quantity, number | null>>) => p[quantity] ?? 0
    const exponent = growthExponent(last.map((p) => [p.x, of(p)]))
    if (exponent === undefined) return []
    const place = { axis: axis.axis, series, unit: axis.unit }
    const ends = { from: last[0]!.x, to: last.at(-1)!.x }
    return [{ type: 'growth-fit', ...place, quantity, exponent, points: last.length, ...ends }]
  })
}
