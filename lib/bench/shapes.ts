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

/** Random-weight models by name: SmolLM2-135M's shape, and four layers of a 1B LLaMA's. */
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
