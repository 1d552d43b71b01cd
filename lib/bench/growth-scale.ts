// Sizes of the growth benchmark, full and quick.
import { type ShapeConfig, shapes } from './shapes.js'

/** What the full and the quick version differ in. */
export interface Scale {
  /** The shape whose width most axes keep. */
  wide: ShapeConfig
  /** A narrow one for many layers and for widths. */
  narrow: ShapeConfig
  batch: number
  sequence: number
  channels: number
  rank: number
  tokens: number[]
  packed: number
  /** Layers of `wide` on the axis of tokens, and on those of share and threads. */
  longLayers: number
  shareLayers: number
  wideLayers: number[]
  narrowLayers: number[]
  widths: number[]
  shares: number[]
  /** What the axis of loading has files of. */
  file: ShapeConfig
  fileLayers: number[]
}

/** A LLaMA of that width: heads of 64, smaller below four of them; a quarter as many for k and v. */
export function ofWidth(hidden: number, layers: number, vocabulary: number): ShapeConfig {
  const headDim = Math.min(64, hidden / 4)
  const heads = hidden / headDim
  return {
    hidden_size: hidden,
    intermediate_size: (hidden * 11) / 4,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: heads / 4,
    head_dim: headDim,
    vocab_size: vocabulary,
    tie_word_embeddings: true,
    rope_theta: 10000,
  }
}

export function fullScale(): Scale {
  return {
    wide: shapes['smollm2-135m']!,
    narrow: ofWidth(256, 4, 8192),
    batch: 4,
    sequence: 256,
    channels: 64,
    rank: 16,
    tokens: [256, 512, 1024, 2048, 4096, 8192, 16384],
    packed: 256,
    longLayers: 4,
    shareLayers: 8,
    wideLayers: [5, 10, 20, 30],
    narrowLayers: [4, 8, 16, 32, 64],
    widths: [256, 512, 1024, 2048],
    shares: [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1],
    file: ofWidth(1024, 1, 8192),
    fileLayers: [1, 4, 16, 64, 128],
  }
}

export function quickScale(): Scale {
  const wide = ofWidth(128, 4, 640)
  return {
    wide,
    narrow: ofWidth(64, 2, 640),
    batch: 2,
    sequence: 32,
    channels: 8,
    rank: 4,
    tokens: [64, 128, 256],
    packed: 32,
    longLayers: 2,
    shareLayers: 2,
    wideLayers: [2, 4],
    narrowLayers: [2, 4, 8],
    widths: [64, 128, 256],
    shares: [0.1, 1],
    file: ofWidth(128, 1, 640),
    fileLayers: [1, 4, 16],
  }
}
