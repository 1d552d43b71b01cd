// Counts the operations of one training step, so that speeds can be read as a share of peak.
import type { Recompute } from '../native/binding.js'
import { linearShapes, type ShapeConfig } from './shapes.js'

/** Methods that this engine trains in benchmarks. */
export const benchMethods = ['s2ft', 'lora3', 'lora7', 'full'] as const
/** Methods whose operations are counted; dora3 is trained by the peers only. */
export type BenchMethod = (typeof benchMethods)[number] | 'dora3'

const ffn = ['gate', 'up', 'down']

/**
 * Floating-point operations of one step, two per multiply-add: products of the linear layers
 * and the output head, and causal attention as half of its square. Norms, softmax, the loss and
 * the optimizer are not counted. A frozen layer has no weight gradient, and layer 0 no input
 * gradient where nothing below it trains; the embedding is frozen except in `full`.
 *
 * @param options.rank LoRA's rank; options.channels S²FT's channels a layer
 */
export function stepOperations(
  config: ShapeConfig,
  method: BenchMethod,
  batch: number,
  sequence: number,
  options: { rank: number; channels: number },
): number {
  const tokens = batch * sequence
  const layers = config.num_hidden_layers
  const linear = linearShapes(config)
  const product = (a: number, b: number) => 2 * tokens * a * b
  const products = Object.fromEntries(
    Object.entries(linear).map(([name, [a, b]]) => [name, product(a, b)]),
  )
  const allProducts = Object.values(products).reduce((sum, x) => sum + x, 0)
  const attention = 2 * tokens * sequence * config.num_attention_heads * config.head_dim
  const head = product(config.hidden_size, config.vocab_size)
  const forward = layers * (allProducts + attention) + head
  if (method === 'full') return 3 * forward

  const adapted = method === 'lora7' ? Object.keys(linear) : ffn
  const trainsAttention = method === 'lora7'
  let backward = head
  for (let layer = 0; layer < layers; layer++) {
    for (const [name, cost] of Object.entries(products)) {
      const first =
        name === 'down' || (trainsAttention && (name === 'o' || name === 'gate' || name === 'up'))
      if (layer > 0 || first) backward += cost
    }
    if (layer > 0 || trainsAttention) backward += 2 * attention
  }
  let extra = 0
  for (const name of adapted) {
    const [a, b] = linear[name]!
    if (method === 's2ft') extra += product(options.channels, config.hidden_size)
    else extra += 3 * product(options.rank, a + b)
    // DoRA's norm of W + BA, taken anew in every step; its gradient is held constant.
    if (method === 'dora3') extra += 2 * options.rank * a * b
  }
  return forward + backward + layers * extra
}

/**
 * Operations that a recompute policy adds to a step, counted as stepOperations does: none for
 * `selective`, which repeats norms and SwiGLU only; for `block` the forward products of every
 * layer but down, attention, and LoRA's factors. A speed is never credited with them.
 */
export function recomputedOperations(
  config: ShapeConfig,
  method: BenchMethod,
  recompute: Recompute,
  batch: number,
  sequence: number,
  options: { rank: number },
): number {
  if (recompute !== 'block') return 0
  const tokens = batch * sequence
  const linear = linearShapes(config)
  const adapted = method === 'lora7' ? Object.keys(linear) : method === 'lora3' ? ffn : []
  let layer = 2 * tokens * sequence * config.num_attention_heads * config.head_dim
  for (const [name, [a, b]] of Object.entries(linear)) {
    if (name !== 'down') layer += 2 * tokens * a * b
    if (adapted.includes(name)) layer += 2 * tokens * options.rank * (a + b)
  }
  return config.num_hidden_layers * layer
}
