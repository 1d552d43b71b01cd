// How a module's units are spread over the layers (the paper's ablation of allocations).
import { Random } from '../data/random.js'
import { S2FTError } from '../errors.js'
import type { Allocation } from './types.js'

/** Keeps the draw of a layer apart from other uses of the same seed. */
const STREAM = 0x6c61796572

/**
 * A weight for each layer: all 1; 1, 2, 3 … from the first layer or from the last; 1 for a layer
 * drawn by the seed; or as given. Throws INVALID_ARGUMENT for a list of another length.
 */
export function layerWeights(
  allocation: Allocation,
  layers: number,
  seed: number,
): readonly number[] {
  if (typeof allocation !== 'string') {
    if (allocation.length === layers) return allocation
    throw new S2FTError(
      'INVALID_ARGUMENT',
      `allocation: expected ${layers} weights, one a layer, found ${allocation.length}`,
    )
  }
  const one = allocation === 'one-random-layer' ? new Random(seed, STREAM).below(layers) : -1
  return Array.from({ length: layers }, (_, layer) => {
    if (allocation === 'increasing') return layer + 1
    if (allocation === 'decreasing') return layers - layer
    if (allocation === 'one-random-layer') return layer === one ? 1 : 0
    return 1
  })
}

/**
 * Units of each layer, in proportion to the weights, `total` in all: rounded down, what is left
 * goes to the largest remainders (the lower layer of equal ones). No layer gets more than
 * `most`: what it cannot take goes to the others in proportion. What no layer can take is lost.
 */
export function allocateUnits(total: number, most: number, weights: readonly number[]): number[] {
  const counts = weights.map(() => 0)
  let open = weights.map((_, layer) => layer).filter((layer) => weights[layer]! > 0)
  let left = Math.min(total, most * open.length)
  const quota = (layer: number, sum: number) => (left * weights[layer]!) / sum
  const sumOfOpen = () => open.reduce((sum, layer) => sum + weights[layer]!, 0)
  for (;;) {
    const sum = sumOfOpen()
    const full = open.filter((layer) => quota(layer, sum) >= most)
    if (full.length === 0) break
    for (const layer of full) counts[layer] = most
    left -= most * full.length
    open = open.filter((layer) => !full.includes(layer))
  }
  const sum = sumOfOpen()
  const rest = new Map(open.map((layer) => [layer, quota(layer, sum) % 1]))
  for (const layer of open) counts[layer] = Math.floor(quota(layer, sum))
  const extra = left - open.reduce((taken, layer) => taken + counts[layer]!, 0)
  const byRest = [...open].sort((a, b) => rest.get(b)! - rest.get(a)! || a - b)
  for (const layer of byRest.slice(0, extra)) counts[layer]!++
  return counts
}
