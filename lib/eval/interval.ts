// 95% confidence intervals for what an evaluation measures.

const Z95 = 1.959963984540054

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
 * sample as the unit, not that of independent tokens.
 */
export function meanLossInterval(
  samples: readonly { lossSum: number; tokens: number }[],
): [number, number] {
  const n = samples.length
  const tokens = samples.reduce((sum, s) => sum + s.tokens, 0)
  const mean = samples.reduce((sum, s) => sum + s.lossSum, 0) / tokens
  if (n < 2) return [mean, mean]
  const squares = samples.reduce((sum, s) => sum + (s.lossSum - mean * s.tokens) ** 2, 0)
  const error = Math.sqrt((n / (n - 1)) * squares) / tokens
  return [mean - Z95 * error, mean + Z95 * error]
}
