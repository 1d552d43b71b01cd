// config.json of a Hugging Face model, checked, with the defaults of transformers filled in.
import { join } from 'node:path'
import { z } from 'zod'
import { S2FTError } from '../errors.js'
import { parseRope } from './rope.js'
import type { ModelConfig, ModelFamily } from './types.js'
import { readJson, show, validate } from './validate.js'

interface FamilyDefaults {
  architecture: string
  vocab_size: number
  intermediate_size: number
  max_position_embeddings: number
  /** When the key is absent; a null key means as many as query heads. */
  num_key_value_heads?: number
  /** Absent: hidden_size / num_attention_heads. */
  head_dim?: number
  eos_token_id: number[]
}

/** Defaults of transformers' configuration classes for keys that config.json leaves out. */
const FAMILIES: Record<ModelFamily, FamilyDefaults> = {
  llama: {
    architecture: 'LlamaForCausalLM',
    vocab_size: 32_000,
    intermediate_size: 11_008,
    max_position_embeddings: 2048,
    eos_token_id: [2],
  },
  mistral: {
    architecture: 'MistralForCausalLM',
    vocab_size: 32_000,
    intermediate_size: 14_336,
    max_position_embeddings: 131_072,
    num_key_value_heads: 8,
    eos_token_id: [2],
  },
  qwen2: {
    architecture: 'Qwen2ForCausalLM',
    vocab_size: 151_936,
    intermediate_size: 22_016,
    max_position_embeddings: 32_768,
    num_key_value_heads: 32,
    eos_token_id: [],
  },
  qwen3: {
    architecture: 'Qwen3ForCausalLM',
    vocab_size: 151_936,
    intermediate_size: 22_016,
    max_position_embeddings: 32_768,
    num_key_value_heads: 32,
    head_dim: 128,
    eos_token_id: [],
  },
}

const size = z
  .number()
  .int()
  .positive()
  .max(2 ** 31 - 1)
const layerTypes = z.array(z.enum(['full_attention', 'sliding_attention']))

const schema = z.looseObject({
  vocab_size: size.optional(),
  hidden_size: size.default(4096),
  intermediate_size: size.optional(),
  num_hidden_layers: size.max(10_000).default(32),
  num_attention_heads: size.default(32),
  num_key_value_heads: size.nullish(),
  head_dim: size.nullish(),
  hidden_act: z.string().default('silu'),
  max_position_embeddings: size.optional(),
  rms_norm_eps: z.number().positive().default(1e-6),
  tie_word_embeddings: z.boolean().default(false),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  rope_theta: z.number().positive().nullish(),
  rope_scaling: z.unknown().optional(),
  rope_parameters: z.unknown().optional(),
  partial_rotary_factor: z.number().nullish(),
  original_max_position_embeddings: size.nullish(),
  sliding_window: size.nullish(),
  use_sliding_window: z.boolean().default(false),
  max_window_layers: z.number().int().nonnegative().default(28),
  layer_types: layerTypes.nullish(),
  eos_token_id: z
    .union([z.number().int().nonnegative(), z.array(z.number().int().nonnegative())])
    .nullish(),
})
type Fields = z.infer<typeof schema>

function family(raw: unknown, file: string): ModelFamily {
  const { architectures, model_type, quantization_config } = validate(
    z.looseObject({
      architectures: z.array(z.string()).nullish(),
      model_type: z.string().nullish(),
      quantization_config: z.unknown().optional(),
    }),
    raw,
    file,
    'INVALID_CONFIG',
  )
  const known = Object.keys(FAMILIES) as ModelFamily[]
  const wanted = known.map((name) => FAMILIES[name].architecture)
  const refuse = (field: string, expected: string[], found: unknown): never => {
    throw new S2FTError(
      'UNSUPPORTED_MODEL',
      `${file}: ${field}: expected one of ${expected.join(', ')}, found ${show(found)}`,
    )
  }
  if (quantization_config !== undefined && quantization_config !== null) {
    throw new S2FTError(
      'UNSUPPORTED_MODEL',
      `${file}: quantization_config: expected none (F32, F16 or BF16 weights), ` +
        `found ${show(quantization_config)}`,
    )
  }
  const architecture = architectures?.[0]
  const byArchitecture = known.find((name) => FAMILIES[name].architecture === architecture)
  if (architecture !== undefined && !byArchitecture) refuse('architectures', wanted, architectures)
  const byType = known.find((name) => name === model_type)
  if (typeof model_type === 'string' && !byType) refuse('model_type', known, model_type)
  if (byArchitecture && byType && byArchitecture !== byType) {
    refuse('model_type', [byArchitecture], model_type)
  }
  return byArchitecture ?? byType ?? refuse('architectures', wanted, architectures)
}

/** The window of every layer, 0 where attention is unlimited. */
function windows(fields: Fields, name: ModelFamily, file: string): number[] {
  const layers = fields.num_hidden_layers
  if (name === 'llama') return new Array<number>(layers).fill(0)
  if (name === 'mistral') {
    const window = fields.sliding_window === undefined ? 4096 : (fields.sliding_window ?? 0)
    return new Array<number>(layers).fill(window)
  }
  const window = fields.sliding_window === undefined ? 4096 : fields.sliding_window
  const active = fields.use_sliding_window ? window : null
  if (fields.layer_types && fields.layer_types.length !== layers) {
    throw new S2FTError(
      'INVALID_CONFIG',
      `${file}: layer_types: expected ${layers} entries (num_hidden_layers), ` +
        `found ${fields.layer_types.length}`,
    )
  }
  return Array.from({ length: layers }, (_, layer) => {
    const sliding = fields.layer_types
      ? fields.layer_types[layer] === 'sliding_attention'
      : active !== null && layer >= fields.max_window_layers
    if (!sliding) return 0
    if (active !== null) return active
    throw new S2FTError(
      'INVALID_CONFIG',
      `${file}: layer_types: expected a sliding_window in use for layer ${layer}, found ` +
        `use_sliding_window ${fields.use_sliding_window}, sliding_window ${show(window)}`,
    )
  })
}

/**
 * Checks a parsed config.json. `file` is named in errors. Throws UNSUPPORTED_MODEL for another
 * architecture, activation, rope type or a quantized checkpoint, INVALID_CONFIG for values that
 * cannot be.
 */
export function parseModelConfig(raw: unknown, file: string): ModelConfig {
  const name = family(raw, file)
  const defaults = FAMILIES[name]
  const fields = validate(schema, raw, file, 'INVALID_CONFIG')
  if (fields.hidden_act !== 'silu') {
    throw new S2FTError(
      'UNSUPPORTED_MODEL',
      `${file}: hidden_act: expected "silu", found ${show(fields.hidden_act)}`,
    )
  }
  const heads = fields.num_attention_heads
  // An explicit null means one key/value head a query head, in every family.
  const kvHeads =
    fields.num_key_value_heads === undefined
      ? (defaults.num_key_value_heads ?? heads)
      : (fields.num_key_value_heads ?? heads)
  const divides = (field: string, value: number, by: string, divisor: number) => {
    if (value % divisor !== 0) {
      throw new S2FTError(
        'INVALID_CONFIG',
        `${file}: ${field}: expected a multiple of ${by} (${divisor}), found ${value}`,
      )
    }
  }
  divides('num_attention_heads', heads, 'num_key_value_heads', kvHeads)
  const givenHeadDim = fields.head_dim ?? defaults.head_dim
  if (givenHeadDim === undefined) {
    divides('hidden_size', fields.hidden_size, 'num_attention_heads', heads)
  }
  const headDim = givenHeadDim ?? fields.hidden_size / heads
  divides(fields.head_dim ? 'head_dim' : 'head size', headDim, "rope's pairs", 2)
  const maxPositionEmbeddings = fields.max_position_embeddings ?? defaults.max_position_embeddings
  const eos = fields.eos_token_id === undefined ? defaults.eos_token_id : fields.eos_token_id
  const biased = name === 'qwen2' || (name !== 'mistral' && fields.attention_bias)
  return {
    family: name,
    architecture: defaults.architecture,
    maxPositionEmbeddings,
    eosTokenIds: eos === null ? [] : [eos].flat(),
    native: {
      vocabSize: fields.vocab_size ?? defaults.vocab_size,
      hiddenSize: fields.hidden_size,
      intermediateSize: fields.intermediate_size ?? defaults.intermediate_size,
      layers: fields.num_hidden_layers,
      heads,
      kvHeads,
      headDim,
      normEpsilon: fields.rms_norm_eps,
      tieWordEmbeddings: fields.tie_word_embeddings,
      qkvBias: biased,
      oBias: biased && name !== 'qwen2',
      mlpBias: name === 'llama' && fields.mlp_bias,
      qkNorm: name === 'qwen3',
      slidingWindow: windows(fields, name, file),
      rope: parseRope({ ...fields, max_position_embeddings: maxPositionEmbeddings }, file),
    },
  }
}

/** config.json of a model directory. Throws as parseModelConfig does, and IO. */
export async function readModelConfig(directory: string): Promise<ModelConfig> {
  const file = join(directory, 'config.json')
  return parseModelConfig(await readJson(file, 'INVALID_CONFIG'), file)
}
