// Means and paired differences with intervals: of runs with several seeds, scored on the same items.
import jStat from 'jstat'

/** One list of item values for each seed; all lists have the same items in the same order. */
export type SeedItems = readonly (readonly number[])[]

export interface Estimate {
  mean: number
  /** undefined where there are too few values to tell. */
  interval: readonly [low: number, high: number] | undefined
}

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

/** Sample variance; NaN for fewer than two values. */
export function variance(values: readonly number[]): number {
  const centre = mean(values)
  const squares = values.reduce((sum, value) => sum + (value - centre) ** 2, 0)
  return values.length < 2 ? Number.NaN : squares / (values.length - 1)
}

/** How far an interval of this level reaches on both sides, in standard errors. */
export function tQuantile(level: number, degreesOfFreedom: number): number {
  return jStat.studentt.inv((1 + level) / 2, degreesOfFreedom)
}

/**
 * Mean over seeds of the mean over items, with Student's t-interval over seeds: where another run of
 * the same training, on the same items, may lie.
 */
export function seedMean(values: SeedItems, level = 0.95): Estimate {
  const means = values.map(mean)
  const centre = mean(means)
  if (means.length < 2) return { mean: centre, interval: undefined }
  const error = Math.sqrt(variance(means) / means.length)
  const half = tQuantile(level, means.length - 1) * error
  return { mean: centre, interval: [centre - half, centre + half] }
}

/**
 * Mean of a - b over the same seeds and items. Its standard error has a part from the seeds and one
 * from the items: both are a sample of what might have been drawn. For differences d[seed][item],
 * the squared error is var(seed means) / seeds + var(item means) / items, an upper estimate in the
 * crossed two-way model (the residual counts in both parts); degrees of freedom after Satterthwaite.
 */
export function pairedDifference(a: SeedItems, b: SeedItems, level = 0.95): Estimate {
  if (a.length !== b.length || a.some((items, s) => items.length !== b[s]!.length)) {
    throw new RangeError('expected the same seeds and items on both sides')
  }
  const differences = a.map((items, s) => items.map((value, i) => value - b[s]![i]!))
  const seeds = differences.length
  const items = differences[0]?.length ?? 0
  const bySeed = differences.map(mean)
  const centre = mean(bySeed)
  if (seeds < 2 || items < 2) return { mean: centre, interval: undefined }
  const byItem = differences[0]!.map((_, i) => mean(differences.map((row) => row[i]!)))
  const ofSeeds = variance(bySeed) / seeds
  const ofItems = variance(byItem) / items
  const squared = ofSeeds + ofItems
  if (squared === 0) return { mean: centre, interval: [centre, centre] }
  const freedom = squared ** 2 / (ofSeeds ** 2 / (seeds - 1) + ofItems ** 2 / (items - 1))
  const half = tQuantile(level, freedom) * Math.sqrt(squared)
  return { mean: centre, interval: [centre - half, centre + half] }
}

/** Standard deviation of independent runs, with its interval by the chi-square distribution. */
export function deviation(values: readonly number[], level = 0.95): Estimate {
  const squared = variance(values)
  if (values.length < 2) return { mean: Number.NaN, interval: undefined }
  const freedom = values.length - 1
  const bound = (p: number) => Math.sqrt((freedom * squared) / jStat.chisquare.inv(p, freedom))
  return {
    mean: Math.sqrt(squared),
    interval: [bound((1 + level) / 2), bound((1 - level) / 2)],
  }
}

/** The level at which `count` intervals hold together with 95 % (Bonferroni). */
export function jointLevel(count: number): number {
  return 1 - 0.05 / Math.max(1, count)
}

/** Whether an interval leaves out zero: a difference is shown. */
export function excludesZero({ interval }: Estimate): boolean {
  return interval !== undefined && (interval[0] > 0 || interval[1] < 0)
}
