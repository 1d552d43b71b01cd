// Model shapes that the training benchmark can make from nothing.

/** The part of config.json that decides shapes and operation counts. */
export interface ShapeConfig {
  hidden_size: number
  intermediate_size: number
  num_hidden_layers: number
  num_attention_heads: number
  num_key_value_heads: number
  head_dim: number
  vocab_size: number
  tie_word_embeddings: boolean
  rope_theta: number
}

/** The first LLaMA's shapes: as many key heads as query heads, of 128 each. */
function llama(size: { hidden: number; intermediate: number; layers: number; heads: number }) {
  return {
    hidden_size: size.hidden,
    intermediate_size: size.intermediate,
    num_hidden_layers: size.layers,
    num_attention_heads: size.heads,
    num_key_value_heads: size.heads,
    head_dim: 128,
    vocab_size: 32000,
    tie_word_embeddings: false,
    rope_theta: 10000,
  }
}

/**
 * Random-weight models by name: SmolLM2-135M's shape, four layers of a 1B LLaMA's, and the two
 * that the paper measured, which are for GPUs.
 */
export const shapes: Record<string, ShapeConfig> = {
  'smollm2-135m': {
    hidden_size: 576,
    intermediate_size: 1536,
    num_hidden_layers: 30,
    num_attention_heads: 9,
    num_key_value_heads: 3,
    head_dim: 64,
    vocab_size: 49152,
    tie_word_embeddings: true,
    rope_theta: 100000,
  },
  'llama-1b-4l': {
    hidden_size: 2048,
    intermediate_size: 5632,
    num_hidden_layers: 4,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    head_dim: 64,
    vocab_size: 32000,
    tie_word_embeddings: false,
    rope_theta: 10000,
  },
  'llama-7b': llama({ hidden: 4096, intermediate: 11008, layers: 32, heads: 32 }),
  'llama-13b': llama({ hidden: 5120, intermediate: 13824, layers: 40, heads: 40 }),
}

/** The seven linear layers of a block as [in, out]. */
export function linearShapes(c: ShapeConfig): Record<string, [number, number]> {
  const q = c.num_attention_heads * c.head_dim
  const kv = c.num_key_value_heads * c.head_dim
  return {
    q: [c.hidden_size, q],
    k: [c.hidden_size, kv],
    v: [c.hidden_size, kv],
    o: [q, c.hidden_size],
    gate: [c.hidden_size, c.intermediate_size],
    up: [c.hidden_size, c.intermediate_size],
    down: [c.intermediate_size, c.hidden_size],
  }
}
