// The method's building blocks over typed arrays, for people who bring their own network.
// Inputs are copied when a call is made and results are fresh arrays, so nothing is shared
// with a computation in flight.
import { S2FTError } from '../errors.js'
import type { Matrix } from '../native/binding.js'
import { native } from '../native/load.js'

export type { Matrix } from '../native/binding.js'

/** A trainable range of a weight: rows of the output or columns of the input. */
export interface Slice {
  axis: 'rows' | 'cols'
  begin: number
  count: number
}

/**
 * The order that brings `selected` units first, the rest behind in their old order:
 * order[i] is the original index of the unit at place i. Throws INVALID_ARGUMENT for a unit
 * outside [0, units) or named twice.
 */
export function selectionOrder(units: number, selected: readonly number[]): Int32Array {
  const chosen = new Set<number>()
  for (const unit of selected) {
    if (Number.isInteger(unit) && unit >= 0 && unit < units && !chosen.has(unit)) chosen.add(unit)
    else {
      throw new S2FTError(
        'INVALID_ARGUMENT',
        `selected: expected distinct units in [0, ${units}), found ${unit}${chosen.has(unit) ? ' twice' : ''}`,
      )
    }
  }
  const rest = Array.from({ length: units }, (_, i) => i).filter((i) => !chosen.has(i))
  return Int32Array.from([...selected, ...rest])
}

/** The order that undoes `order`. */
export function inverseOrder(order: Int32Array): Int32Array {
  const inverse = new Int32Array(order.length)
  order.forEach((original, place) => {
    inverse[original] = place
  })
  return inverse
}

/**
 * Co-permutation (paper, section 3.2): reorders the rows of the producers and the columns of
 * the consumers of one shared index, which leaves the block's output unchanged. With
 * `inverseOrder(order)` it is undone, bit for bit.
 *
 * @param producers weights [n, in], e.g. gate and up
 * @param consumers weights [out, n], e.g. down
 * @param order permutation of the n shared units (see selectionOrder)
 * @throws SHAPE_MISMATCH, INVALID_ARGUMENT
 */
export async function coPermute(
  weights: { producers?: readonly Matrix[]; consumers?: readonly Matrix[] },
  order: Int32Array,
): Promise<{ producers: Matrix[]; consumers: Matrix[] }> {
  const all = (list: readonly Matrix[] | undefined, axis: 'rows' | 'cols') =>
    Promise.all((list ?? []).map((matrix) => native().permute(matrix, order, axis)))
  const [producers, consumers] = await Promise.all([
    all(weights.producers, 'rows'),
    all(weights.consumers, 'cols'),
  ])
  return { producers, consumers }
}

/**
 * y = x Wᵀ: the frozen layer's forward pass, which S²FT does not change.
 *
 * @param x [tokens, in]
 * @param weight [out, in]
 * @returns [tokens, out]
 * @throws SHAPE_MISMATCH
 */
export async function partialLinearForward(x: Matrix, weight: Matrix): Promise<Matrix> {
  return native().linearForward(x, weight)
}

/**
 * Partial back-propagation (paper, section 3.3): the input's gradient through the whole
 * weight, dX = dY W, and the weight's gradient for the slice only.
 *
 * rows: dW = dY[:, slice]ᵀ X, [count, in], with x the whole input [tokens, in];
 * cols: dW = dYᵀ X[:, slice], [out, count], with x the slice's columns only
 * [tokens, count]: nothing else of the input needs to be kept.
 *
 * @param dy [tokens, out]
 * @param weight [out, in]
 * @throws SHAPE_MISMATCH, INVALID_ARGUMENT
 */
export async function partialLinearBackward(
  dy: Matrix,
  weight: Matrix,
  x: Matrix,
  slice: Slice,
): Promise<{ dx: Matrix; dw: Matrix }> {
  return native().linearBackward(dy, weight, x, slice)
}

/**
 * One AdamW update with decoupled weight decay, as torch.optim.AdamW. `step` is 1 for the
 * first update. Returns the new value and moments.
 *
 * @throws SHAPE_MISMATCH when the four arrays differ in length, INVALID_ARGUMENT
 */
export async function adamw(
  state: { value: Float32Array; gradient: Float32Array; first: Float32Array; second: Float32Array },
  options: {
    learningRate: number
    step: number
    beta1?: number
    beta2?: number
    epsilon?: number
    weightDecay?: number
  },
): Promise<{ value: Float32Array; first: Float32Array; second: Float32Array }> {
  const defaults = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 }
  return native().adamw(state, { ...defaults, ...options })
}
