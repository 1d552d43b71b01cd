// Rotary position settings: the spellings of config.json and the types the engine has.
import { z } from 'zod'
import { S2FTError } from '../errors.js'
import type { NativeRope } from '../native/binding.js'
import { show, validate } from './validate.js'

const TYPES = ['default', 'linear', 'dynamic', 'llama3'] as const
type RopeType = (typeof TYPES)[number]

const positive = z.number().positive()
const scalingSchema = z.looseObject({
  rope_type: z.string().nullish(),
  type: z.string().nullish(),
  rope_theta: positive.nullish(),
  partial_rotary_factor: z.number().nullish(),
})
const linearSchema = z.looseObject({ factor: positive })
const llama3Schema = z.looseObject({
  factor: positive,
  low_freq_factor: positive,
  high_freq_factor: positive,
  original_max_position_embeddings: z.number().int().positive().nullish(),
})

export interface RopeFields {
  rope_theta?: number | null | undefined
  rope_scaling?: unknown
  rope_parameters?: unknown
  partial_rotary_factor?: number | null | undefined
  original_max_position_embeddings?: number | null | undefined
  max_position_embeddings: number
}

function requireWholeHead(factor: number | null | undefined, file: string, field: string): void {
  if (factor !== null && factor !== undefined && factor !== 1) {
    throw new S2FTError('UNSUPPORTED_MODEL', `${file}: ${field}: expected 1, found ${factor}`)
  }
}

/**
 * The engine's rope settings from config.json (transformers 4: rope_theta and rope_scaling with
 * `type` or `rope_type`; transformers 5: rope_parameters). As in transformers, a non-empty
 * rope_scaling wins over rope_parameters, and a theta inside wins over one outside. Throws
 * UNSUPPORTED_MODEL for other types, INVALID_CONFIG for missing or impossible factors.
 */
export function parseRope(fields: RopeFields, file: string): NativeRope {
  const hasScaling =
    fields.rope_scaling !== null &&
    fields.rope_scaling !== undefined &&
    !(typeof fields.rope_scaling === 'object' && Object.keys(fields.rope_scaling).length === 0)
  const name = hasScaling ? 'rope_scaling' : 'rope_parameters'
  const raw = (hasScaling ? fields.rope_scaling : fields.rope_parameters) ?? {}
  const scaling = validate(scalingSchema, raw, `${file}: ${name}`, 'INVALID_CONFIG')
  if ('full_attention' in scaling || 'sliding_attention' in scaling) {
    throw new S2FTError(
      'UNSUPPORTED_MODEL',
      `${file}: ${name}: expected one setting for all layers, found one per attention type`,
    )
  }
  requireWholeHead(fields.partial_rotary_factor, file, 'partial_rotary_factor')
  requireWholeHead(scaling.partial_rotary_factor, file, `${name}.partial_rotary_factor`)
  const type = scaling.rope_type ?? scaling.type ?? 'default'
  if (!(TYPES as readonly string[]).includes(type)) {
    throw new S2FTError(
      'UNSUPPORTED_MODEL',
      `${file}: ${name}.${scaling.rope_type ? 'rope_type' : 'type'}: expected one of ` +
        `${TYPES.join(', ')}, found ${show(type)}`,
    )
  }
  const rope: NativeRope = {
    type: type as RopeType,
    theta: scaling.rope_theta ?? fields.rope_theta ?? 10_000,
    factor: 1,
    lowFreqFactor: 1,
    highFreqFactor: 1,
    originalMaxPositions: fields.max_position_embeddings,
  }
  if (type === 'linear' || type === 'dynamic') {
    rope.factor = validate(linearSchema, raw, `${file}: ${name}`, 'INVALID_CONFIG').factor
  }
  if (type === 'llama3') {
    const found = validate(llama3Schema, raw, `${file}: ${name}`, 'INVALID_CONFIG')
    if (found.high_freq_factor <= found.low_freq_factor) {
      throw new S2FTError(
        'INVALID_CONFIG',
        `${file}: ${name}.high_freq_factor: expected more than low_freq_factor ` +
          `(${found.low_freq_factor}), found ${found.high_freq_factor}`,
      )
    }
    rope.factor = found.factor
    rope.lowFreqFactor = found.low_freq_factor
    rope.highFreqFactor = found.high_freq_factor
    rope.originalMaxPositions =
      fields.original_max_position_embeddings ??
      found.original_max_position_embeddings ??
      fields.max_position_embeddings
  }
  return rope
}
