// Differences between two evaluations of the same samples.
import { type Estimate, meanLossInterval, Z95 } from './interval.js'

/** Answers of two evaluations, A and B, to the same questions. */
export interface PairedAnswers {
  both: number
  onlyA: number
  onlyB: number
  neither: number
}

/**
 * accuracy(B) - accuracy(A) and its 95% interval: Bonett and Price's adjusted Wald interval
 * (2012). With b = onlyB, c = onlyA of n pairs, the shares (b + 1) / (n + 2) and (c + 1) / (n + 2)
 * stand for b / n and c / n, so that it is not empty where nothing differs.
 */
export function pairedDifference({ both, onlyA, onlyB, neither }: PairedAnswers): Estimate {
  const n = both + onlyA + onlyB + neither
  const gained = (onlyB + 1) / (n + 2)
  const lost = (onlyA + 1) / (n + 2)
  const centre = gained - lost
  const half = Z95 * Math.sqrt((gained + lost - centre ** 2) / (n + 2))
  return {
    value: (onlyB - onlyA) / n,
    interval: [Math.max(-1, centre - half), Math.min(1, centre + half)],
  }
}

/**
 * McNemar's exact test, two-sided: how likely a split of the differing answers at least as uneven
 * is when each falls to A or B by a fair coin.
 */
export function mcnemar({ onlyA, onlyB }: PairedAnswers): number {
  const n = onlyA + onlyB
  const fewer = Math.min(onlyA, onlyB)
  // log of binomial(n, k) / 2^n, from k - 1 to k; powers of 1/2 alone would underflow.
  let logTerm = -n * Math.LN2
  let tail = 0
  for (let k = 0; k <= fewer; k++) {
    if (k > 0) logTerm += Math.log((n - k + 1) / k)
    tail += Math.exp(logTerm)
  }
  return Math.min(1, 2 * tail)
}

/** loss(B) - loss(A) a token, and its 95% interval with the sample as the unit. */
export function pairedLoss(
  samples: readonly { lossA: number; lossB: number; tokens: number }[],
): Estimate {
  const differences = samples.map(({ lossA, lossB, tokens }) => ({
    lossSum: lossB - lossA,
    tokens,
  }))
  const tokens = samples.reduce((sum, sample) => sum + sample.tokens, 0)
  const value = differences.reduce((sum, { lossSum }) => sum + lossSum, 0) / tokens
  return { value, interval: meanLossInterval(differences) }
}
