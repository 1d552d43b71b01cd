// 95% confidence intervals for what an evaluation measures.

/** Half the width of a 95% interval, in standard deviations. */
export const Z95 = 1.959963984540054

/**
 * Wilson score interval of a proportion: [low, high] within [0, 1].
 * Unlike the normal approximation it stays inside the unit interval and is not empty
 * when all or none of the answers are right.
 */
export function wilsonInterval(successes: number, count: number): [number, number] {
  if (count === 0) return [0, 1]
  const p = successes / count
  const z2 = Z95 * Z95
  const centre = (p + z2 / (2 * count)) / (1 + z2 / count)
  const half =
    (Z95 / (1 + z2 / count)) * Math.sqrt((p * (1 - p)) / count + z2 / (4 * count * count))
  // At the ends the bound is exact; rounding must not move it.
  return [successes === 0 ? 0 : centre - half, successes === count ? 1 : centre + half]
}

/**
 * Interval of the mean loss per token, Σ lossSum / Σ tokens, over samples.
 * Tokens of one sample go together, so the variance is that of a ratio estimator with the
 * sample as the unit, not that of independent tokens. One sample says nothing of the spread: its
 * interval has no bounds.
 */
export function meanLossInterval(
  samples: readonly { lossSum: number; tokens: number }[],
): [number, number] {
  const n = samples.length
  const tokens = samples.reduce((sum, s) => sum + s.tokens, 0)
  const mean = samples.reduce((sum, s) => sum + s.lossSum, 0) / tokens
  if (n < 2) return [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY]
  const squares = samples.reduce((sum, s) => sum + (s.lossSum - mean * s.tokens) ** 2, 0)
  const error = Math.sqrt((n / (n - 1)) * squares) / tokens
  return [mean - Z95 * error, mean + Z95 * error]
}

/** An estimate and its 95% interval. */
export interface Estimate {
  value: number
  interval: [number, number]
}

/**
 * Mean of independent estimates, each with the same weight, and its 95% interval: the distances
 * of the estimates from the ends of their own intervals add as variances do (Zou and Donner 2008,
 * MOVER). Unlike one from p (1 - p) / n it is not empty when all answers of all parts are right.
 */
export function meanInterval(estimates: readonly Estimate[]): Estimate {
  const n = estimates.length
  const value = estimates.reduce((sum, estimate) => sum + estimate.value, 0) / n
  const distance = (side: 0 | 1) =>
    Math.sqrt(
      estimates.reduce((sum, { value, interval }) => sum + (value - interval[side]) ** 2, 0),
    )
  return { value, interval: [value - distance(0) / n, value + distance(1) / n] }
}
