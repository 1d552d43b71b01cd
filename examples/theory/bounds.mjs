// The predictions. With C and C' the residuals (B - M) S^(1/2) of the fine-tuning and of the other
// task, the label shift is L = C' - C. P is the projection onto what the selected channels reach, p
// the number of inputs, s the dimension of that reach, q of what all channels reach, n the samples.
import { Matrix } from 'ml-matrix'
import { imageOf, project, squares } from './network.mjs'

/** Standard deviations that the bounds with finite data leave to chance. */
export const DEVIATIONS = 3
/** The least probability with which loraInside then holds: two events of exp(-u^2 / 2) each. */
export const CONFIDENCE = 1 - 2 * Math.exp(-(DEVIATIONS ** 2) / 2)

/** What does not depend on the data. */
export function constants({ residual, residualOther, reached, root, above, r, noise }) {
  const shift = Matrix.sub(residualOther, residual)
  const within = squares(project(reached, shift))
  const before = squares(residualOther)
  return {
    inputs: root.rows,
    reach: reached.columns,
    allReach: imageOf(above).columns,
    r,
    noise,
    /** The network's own risks. */
    beforeInside: squares(residual),
    before,
    /** |L|^2 */
    shift: squares(shift),
    /** |P L|^2 / |C'|^2: how much the shift within the reach is of the network's own risk. */
    epsilon2: within / before,
    s2ftInside: squares(Matrix.sub(residual, project(reached, residual))),
    s2ftOutside: before - squares(project(reached, residualOther)) + within,
  }
}

/** Mean risk that noise adds to S2FT, on either task: noise^2 s p / (n - p - 1), n > p + 1. */
function s2ftNoise({ noise, reach, inputs }, n) {
  return Number.isFinite(n) ? (noise ** 2 * reach * inputs) / (n - inputs - 1) : 0
}

/** Means over the data: exact, not bounds. */
export function s2ftMeans(known, n) {
  const added = s2ftNoise(known, n)
  return { inside: known.s2ftInside + added, outside: known.s2ftOutside + added }
}

/** At most this on the other task, in the mean over the data: (1 + epsilon^2) |C'|^2 + noise. */
export function s2ftOutsideBound(known, n) {
  return (1 + known.epsilon2) * known.before + s2ftNoise(known, n)
}

/**
 * At most this on the fine-tuning task, with probability CONFIDENCE, where a change of rank r
 * suffices: 8 r noise^2 (sqrt p + sqrt q + u)^2 / (n (1 - sqrt(p / n) - u / sqrt n)^2).
 */
export function loraInsideBound({ r, noise, inputs, allReach }, n) {
  if (!Number.isFinite(n)) return 0
  const smallest = 1 - Math.sqrt(inputs / n) - DEVIATIONS / Math.sqrt(n)
  if (smallest <= 0) return Number.POSITIVE_INFINITY
  const largest = Math.sqrt(inputs) + Math.sqrt(allReach) + DEVIATIONS
  return (8 * r * noise ** 2 * largest ** 2) / (n * smallest ** 2)
}

/**
 * At least this on the other task for whatever has risk `inside` on the fine-tuning task:
 * (|L| - sqrt(inside))^2, 0 where that is negative before squaring.
 */
export function outsideBound({ shift }, inside) {
  return Math.max(0, Math.sqrt(shift) - Math.sqrt(inside)) ** 2
}
