// Turns a case of `s2ft bench real` into the figures it is reported by.
import { type EncodedSample, trainedTokens } from '../data/index.js'
import type { RealResult, RealSpec } from './real-case.js'
import type { Case } from './run.js'
import { type CaseIdentity, identityOf, largestPeak, median } from './summary.js'

export type RealCase = Case<RealSpec>

/** One line of `s2ft bench real --json`. */
export interface RealSummary extends CaseIdentity {
  type: 'real'
  model: string
  data: string
  device: string
  threads: number
  trainable: number
  /** Timed samples of a round, and their tokens, prompts included. */
  samples: number
  tokens: number
  /** Share of the tokens that carry loss. */
  trainedShare: number
  /** Median over rounds, least and most. */
  samplesPerSecond: number
  samplesPerSecondRange: [number, number]
  /** Real tokens, prompts included, padding not. */
  tokensPerSecond: number
  /** Share of the computed positions that is padding. */
  padding: number
  peakBytes: number | null
  /** Of the untrained model on the first batch, by a forward pass of this engine. */
  lossBase: number
  lossFirst: number
  lossLast: number
  rounds: number
  /** Timed steps of a round. */
  steps: number
}

const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0)

/** Samples a second of one round. */
export function samplesPerSecond(samples: number): (result: RealResult) => number {
  return (result) => samples / sum(result.seconds)
}

/** Pools a case's rounds; `timed` are the samples of one. */
export function summariseReal(
  item: RealCase,
  run: { model: string; data: string; lossBase: number; timed: readonly EncodedSample[] },
  results: readonly RealResult[],
): RealSummary {
  const { timed } = run
  const first = results[0]!
  const speeds = results.map(samplesPerSecond(timed.length))
  const tokens = sum(timed.map((sample) => sample.tokens.length))
  const typical = median(speeds)
  return {
    type: 'real',
    ...identityOf(item),
    model: run.model,
    data: run.data,
    device: first.device,
    threads: first.threads,
    trainable: first.trainable,
    samples: timed.length,
    tokens,
    trainedShare: sum(timed.map(trainedTokens)) / tokens,
    samplesPerSecond: typical,
    samplesPerSecondRange: [Math.min(...speeds), Math.max(...speeds)],
    tokensPerSecond: (typical * tokens) / timed.length,
    padding: 1 - tokens / first.positions,
    peakBytes: largestPeak(results),
    lossBase: run.lossBase,
    lossFirst: first.lossFirst,
    lossLast: first.loss,
    rounds: results.length,
    steps: first.seconds.length,
  }
}
