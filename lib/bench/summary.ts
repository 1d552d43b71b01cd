// Turns timed steps into the figures a case is reported by.
import type { CaseResult } from './case.js'
import type { PeerVariant } from './peers.js'
import type { Case } from './run.js'

/** What tells a case from the others of its run. */
export interface CaseIdentity {
  method: string
  dtype: string
  /** null for this engine. */
  variant: PeerVariant | null
  /** Samples in a step. */
  batch: number
}

export function identityOf(item: {
  name: string
  spec: { dtype: string; batch: number }
  peer?: { variant: PeerVariant }
}): CaseIdentity {
  const { dtype, batch } = item.spec
  return { method: item.name, dtype, variant: item.peer?.variant ?? null, batch }
}

/** One line of `s2ft bench train --json`. */
export interface CaseSummary extends CaseIdentity {
  type: 'case'
  model: string
  device: string
  threads: number
  sequence: number
  trainable: number
  /** Median over all timed steps of all rounds; prompts and padding do not exist here. */
  tokensPerSecond: number
  tokensPerSecondRange: [number, number]
  peakBytes: number | null
  /** Operations of one step. */
  gflop: number
  /** gflop / median seconds / measured peak; null without a measured peak. */
  shareOfPeak: number | null
  peakGflops: number | null
  /**
   * The same step by step, relative to the mean of what the registers did just before and after:
   * the median. On a machine that others use too, it tells what is lost here and what to them.
   */
  shareOfPeakAround: number | null
  /** Of the untrained model; null where it is not known. */
  lossFirst: number | null
  lossLast: number | null
  rounds: number
  steps: number
}

/** A quantity relative to the first case's: median over rounds, least and most. */
export interface Ratio {
  median: number
  range: [number, number]
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** Slope of y over x, least squares; undefined where no two x differ. */
export function slope(points: readonly (readonly [x: number, y: number])[]): number | undefined {
  const mean = (i: 0 | 1) => points.reduce((sum, point) => sum + point[i], 0) / points.length
  const [mx, my] = [mean(0), mean(1)]
  const spread = points.reduce((sum, [x]) => sum + (x - mx) ** 2, 0)
  if (!(spread > 0)) return undefined
  return points.reduce((sum, [x, y]) => sum + (x - mx) * (y - my), 0) / spread
}

/** Most bytes over all rounds; null where a round could not tell. */
export function largestPeak(results: readonly CaseResult[]): number | null {
  const bytes = results.map((r) => r.peakBytes)
  return bytes.includes(null) ? null : Math.max(...(bytes as number[]))
}

function shareAround(results: readonly CaseResult[], gflop: number): number | null {
  const shares = results.flatMap(({ seconds, gflopsAround }) =>
    gflopsAround === undefined
      ? []
      : seconds.map((s, i) => (2 * gflop) / s / (gflopsAround[i]! + gflopsAround[i + 1]!)),
  )
  return shares.length > 0 ? median(shares) : null
}

/** Pools a case's rounds. `peakGflops` is the whole run's, so that shares compare. */
export function summarise(
  item: Case,
  model: string,
  results: readonly CaseResult[],
  gflop: number,
  peakGflops: number | undefined,
): CaseSummary {
  const { batch, sequence } = item.spec
  const seconds = results.flatMap((r) => r.seconds)
  const tokens = batch * sequence
  const typical = median(seconds)
  return {
    type: 'case',
    ...identityOf(item),
    model,
    device: results[0]!.device,
    threads: results[0]!.threads,
    sequence,
    trainable: results[0]!.trainable,
    tokensPerSecond: tokens / typical,
    tokensPerSecondRange: [tokens / Math.max(...seconds), tokens / Math.min(...seconds)],
    peakBytes: largestPeak(results),
    gflop,
    shareOfPeak: peakGflops ? gflop / typical / peakGflops : null,
    peakGflops: peakGflops ?? null,
    shareOfPeakAround: shareAround(results, gflop),
    lossFirst: results[0]!.lossFirst ?? null,
    lossLast: results[0]!.loss,
    rounds: results.length,
    steps: seconds.length,
  }
}

/** `of(a) / of(b)` round by round, so that what both share with the machine cancels. */
export function ratio<R extends CaseResult>(
  a: readonly R[],
  b: readonly R[],
  of: (result: R) => number,
): Ratio {
  const values = a.map((result, round) => of(result) / of(b[round]!))
  return { median: median(values), range: [Math.min(...values), Math.max(...values)] }
}
