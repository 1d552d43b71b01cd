// Checked settings of a generation.
import { z } from 'zod'
import { validate } from '../model/validate.js'

const share = z.number().min(0).max(1)
/** What a generation is asked for, whoever runs it. */
export const generateFields = {
  maxNewTokens: z.number().int().positive().default(256),
  temperature: z.number().nonnegative().default(0),
  topK: z.number().int().nonnegative().default(0),
  topP: share.refine((value) => value > 0, { message: 'expected more than 0' }).default(1),
  minP: share.default(0),
  repetitionPenalty: z.number().positive().default(1),
  seed: z.number().int().nonnegative().default(0),
  stop: z
    .union([z.string().min(1), z.array(z.string().min(1))])
    .default([])
    .transform((stop) => [stop].flat()),
  stopTokenIds: z.array(z.number().int().nonnegative()).default([]),
  signal: z.instanceof(AbortSignal).optional(),
}
const schema = z.strictObject(generateFields)
const batchSchema = schema.extend({
  slots: z.number().int().positive().default(8),
  onResult: z.custom<(...args: never[]) => void>((v) => typeof v === 'function').optional(),
})

export type GenerateSettings = z.infer<typeof schema>

/** Throws INVALID_ARGUMENT naming the option. */
export function generateSettings(options: unknown): GenerateSettings {
  return validate(schema, options ?? {}, 'generate options')
}

export function generateBatchSettings(options: unknown): GenerateSettings & { slots: number } {
  const { onResult: _, ...settings } = validate(batchSchema, options ?? {}, 'generate options')
  return settings
}
