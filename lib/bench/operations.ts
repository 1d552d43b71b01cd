// Counts the operations of one training step, so that speeds can be read as a share of peak.
import type { Recompute } from '../native/binding.js'
import { linearShapes, type ShapeConfig } from './shapes.js'

/** Methods that benchmarks train unless told otherwise. */
export const standardMethods = ['s2ft', 'lora3', 'lora7', 'full'] as const
/** Methods that this engine trains in benchmarks. */
export const benchMethods = [...standardMethods, 'dora3', 'dora7', 'loreft', 'lisa'] as const
export type BenchMethod = (typeof benchMethods)[number]
/** Layers that LISA trains at a time in benchmarks; the embedding and the head always do. */
export const LISA_LAYERS = 2
/** Tokens of a sample's prompt that LoReFT edits in benchmarks: seven first and seven last. */
const LOREFT_POSITIONS = 14

const ffn = ['gate', 'up', 'down']

/** Tokens of every sample of a benchmark that are its prompt: only LoReFT needs one. */
export function promptTokens(method: BenchMethod, sequence: number): number {
  return method === 'loreft' ? Math.min(LOREFT_POSITIONS, sequence - 1) : 0
}

/** Linear layers that a method's trainable parts belong to. */
function adaptedModules(method: BenchMethod, linear: Record<string, unknown>): string[] {
  if (method === 'loreft' || method === 'lisa') return []
  return method === 'lora7' || method === 'dora7' ? Object.keys(linear) : ffn
}

/**
 * Floating-point operations of one step, two per multiply-add: products of the linear layers
 * and the output head, and causal attention as half of its square. Norms, softmax, the loss and
 * the optimizer are not counted. A frozen layer has no weight gradient, and layer 0 no input
 * gradient where nothing below it trains; the embedding is frozen except in `full`.
 *
 * @param options.rank that of LoRA, DoRA and LoReFT; options.channels S²FT's channels a layer
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
  const prompt = promptTokens(method, sequence)
  // What a prompt predicts is not trained; its last token predicts the first that is.
  const predicting = prompt > 0 ? batch * (sequence - prompt) : tokens
  const head = 2 * predicting * config.hidden_size * config.vocab_size
  const forward = layers * (allProducts + attention) + head
  if (method === 'full') return 3 * forward
  // Gradients by every input, and by the weights of the head and of the layers that train.
  if (method === 'lisa')
    return 2 * forward + layers * attention + Math.min(LISA_LAYERS, layers) * allProducts + head

  const trainsAttention = method === 'lora7' || method === 'dora7'
  const adapted = adaptedModules(method, linear)
  let backward = head
  for (let layer = 0; layer < layers; layer++) {
    for (const [name, cost] of Object.entries(products)) {
      // LoReFT acts behind layer 0: nothing in it has a gradient.
      if (layer === 0 && method === 'loreft') continue
      const first =
        name === 'down' || (trainsAttention && (name === 'o' || name === 'gate' || name === 'up'))
      if (layer > 0 || first) backward += cost
    }
    if (layer > 0 || trainsAttention) backward += 2 * attention
  }
  // Two thin products forward, four backward, on the edited rows.
  let extra = 12 * batch * prompt * options.rank * config.hidden_size
  for (const name of adapted) {
    const [a, b] = linear[name]!
    if (method === 's2ft') extra += product(options.channels, config.hidden_size)
    else extra += 3 * product(options.rank, a + b)
    // DoRA's norm of W + BA, taken anew in every step; its gradient is held constant.
    if (method === 'dora3' || method === 'dora7') extra += 2 * options.rank * a * b
  }
  return forward + backward + layers * extra
}

/**
 * Operations that a recompute policy adds to a step, counted as stepOperations does: none for
 * `selective`, which repeats norms and SwiGLU only; for `block` the forward products of every
 * layer but down (DoRA, which keeps that product, down too), attention, and the factors. A speed is
 * never credited with them.
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
  const factors = method !== 's2ft' && method !== 'full' && method !== 'lisa'
  const adapted = factors ? adaptedModules(method, linear) : []
  let layer = 2 * tokens * sequence * config.num_attention_heads * config.head_dim
  for (const [name, [a, b]] of Object.entries(linear)) {
    const dora = method === 'dora3' || method === 'dora7'
    if (name !== 'down' || dora) layer += 2 * tokens * a * b
    if (adapted.includes(name)) layer += 2 * tokens * options.rank * (a + b)
  }
  // LoReFT needs nothing of layer 0 in backward.
  return (config.num_hidden_layers - (method === 'loreft' ? 1 : 0)) * layer
}
