// Checked options of an Engine and of its requests.
import { randomInt } from 'node:crypto'
import { z } from 'zod'
import { S2FTError } from '../errors.js'
import { byteCount } from '../model/byte-count.js'
import type { ModelConfig } from '../model/types.js'
import { validate } from '../model/validate.js'
import type { DType } from '../native/binding.js'
import { generateFields } from './options.js'

const count = z.number().int().positive()
const size = z.union([z.number(), z.string()])
const schema = z
  .strictObject({
    maxSequences: count.default(64),
    maxBatchTokens: count.default(512),
    maxQueue: z.number().int().nonnegative().default(1024),
    cacheMemory: size.optional(),
    pageTokens: count
      .refine((value) => value % 16 === 0, { message: 'expected a multiple of 16' })
      .default(16),
    adapterMemory: size.default('1GB'),
    prefixCache: z.boolean().default(true),
  })
  .refine(({ maxSequences, maxBatchTokens }) => maxBatchTokens >= maxSequences, {
    path: ['maxBatchTokens'],
    message: 'expected at least maxSequences',
  })

export interface EngineSettings {
  maxSequences: number
  maxBatchTokens: number
  maxQueue: number
  pageTokens: number
  pages: number
  adapterMemory: number
  prefixCache: boolean
}

/** Bytes of a token's keys and values. */
export function tokenBytes({ native }: ModelConfig, dtype: DType): number {
  return 2 * native.layers * native.kvHeads * native.headDim * (dtype === 'f32' ? 4 : 2)
}

/** Throws INVALID_ARGUMENT naming the option. */
export function engineSettings(
  options: unknown,
  config: ModelConfig,
  dtype: DType,
): EngineSettings {
  const checked = validate(schema, options ?? {}, 'Engine options')
  const { cacheMemory, adapterMemory, ...settings } = checked
  const given = cacheMemory ?? Math.floor(process.availableMemory() / 4)
  const bytes = byteCount(given, 'Engine options: cacheMemory')
  const pageBytes = settings.pageTokens * tokenBytes(config, dtype)
  // More than all sequences at their longest is of use to nobody but the prefix cache.
  const longest = Math.ceil(config.maxPositionEmbeddings / settings.pageTokens)
  const most = cacheMemory === undefined ? settings.maxSequences * longest : Number.MAX_SAFE_INTEGER
  const pages = Math.min(Math.floor(bytes / pageBytes), most)
  if (pages < 1) {
    throw new S2FTError(
      'INVALID_ARGUMENT',
      `Engine options: cacheMemory: expected room for one page of ${pageBytes} bytes, found ${given}`,
    )
  }
  return {
    ...settings,
    pages,
    adapterMemory: byteCount(adapterMemory, 'Engine options: adapterMemory'),
  }
}

const penalty = z.number().min(-2).max(2).default(0)
const requestSchema = z.strictObject({
  ...generateFields,
  prompt: z.custom<unknown>((value) => value !== undefined, { message: 'expected a prompt' }),
  adapter: z.string().min(1).optional(),
  maxNewTokens: count.optional(),
  seed: z.number().int().nonnegative().optional(),
  frequencyPenalty: penalty,
  presencePenalty: penalty,
  logitBias: z.record(z.string().regex(/^\d+$/), z.number()).optional(),
  topLogprobs: z.number().int().min(0).max(20).default(0),
  promptLogprobs: z.boolean().default(false),
})

export type RequestSettings = z.infer<typeof requestSchema> & { seed: number }

/** Throws INVALID_ARGUMENT naming the field. */
export function requestSettings(request: unknown, vocabSize: number): RequestSettings {
  const settings = validate(requestSchema, request ?? {}, 'request')
  const token = z.number().max(vocabSize - 1, { message: `expected a token below ${vocabSize}` })
  for (const id of Object.keys(settings.logitBias ?? {})) {
    validate(token, Number(id), 'request: logitBias')
  }
  return { ...settings, seed: settings.seed ?? randomInt(2 ** 48 - 1) }
}
