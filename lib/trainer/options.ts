// Checked options of a Trainer, with defaults.
import { z } from 'zod'
import { Adapter } from '../adapter/adapter.js'
import { Job } from '../distributed/job.js'
import { S2FTError } from '../errors.js'
import { changesBase } from '../method/types.js'
import { show, validate } from '../model/validate.js'
import type { TrainerOptions } from './types.js'

const natural = z.number().int().nonnegative()
const whole = z.number().int().positive()
const beta = z.number().min(0).lt(1)
const kinds = ['s2ft', 'lora', 'dora', 'sparse', 'lisa', 'galore', 'loreft', 'full']

const schema = z.strictObject({
  method: z.custom<TrainerOptions['method']>(
    (value) => kinds.includes((value as { kind?: string } | null)?.kind ?? ''),
    {
      message:
        'expected s2ft(...), lora(...), dora(...), sparse(...), lisa(...), galore(...), ' +
        'loreft(...) or full()',
    },
  ),
  initialAdapter: z.instanceof(Adapter).optional(),
  learningRate: z.number().nonnegative().default(2e-4),
  weightDecay: z.number().nonnegative().default(0),
  adamBeta1: beta.default(0.9),
  adamBeta2: beta.default(0.999),
  adamEpsilon: z.number().positive().default(1e-8),
  maxGradNorm: z.number().nonnegative().default(1),
  lrScheduler: z.enum(['linear', 'cosine', 'constant']).default('linear'),
  warmupSteps: natural.default(0),
  warmupRatio: z.number().min(0).max(1).default(0),
  maxSteps: z.union([z.literal(-1), whole]).default(-1),
  numTrainEpochs: z.number().positive().default(1),
  batchSize: whole.optional(),
  maxTokensPerBatch: whole.optional(),
  gradientAccumulationSteps: whole.default(1),
  shuffle: z.boolean().default(true),
  seed: natural.default(0),
  loggingSteps: whole.default(1),
  evalSteps: natural.default(0),
  evalDataset: z.custom<TrainerOptions['evalDataset'] & object>(isData).optional(),
  saveSteps: natural.default(0),
  saveTotalLimit: natural.default(0),
  outputDir: z.string().min(1).optional(),
  overwriteOutputDir: z.boolean().default(false),
  recompute: z.enum(['none', 'selective', 'block']).default('selective'),
  memoryLimit: whole.optional(),
  encode: z.custom<TrainerOptions['encode'] & object>(isObject).optional(),
  job: z.instanceof(Job).optional(),
})

function isObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null
}

/** Samples, or what loadDataset returns. */
export function isData(value: unknown): boolean {
  return (
    Array.isArray(value) || (isObject(value) && Array.isArray((value as { rows?: unknown }).rows))
  )
}

export type TrainerSettings = z.infer<typeof schema>

/** Throws INVALID_ARGUMENT naming the option, what was expected and found. */
export function trainerSettings(options: unknown): TrainerSettings {
  const settings = validate(schema, options, 'Trainer options')
  const refuse = (message: string): never => {
    throw new S2FTError('INVALID_ARGUMENT', `Trainer options: ${message}`)
  }
  if (settings.evalSteps > 0 && !settings.evalDataset) {
    refuse(`evalSteps: expected an evalDataset beside ${settings.evalSteps}, found none`)
  }
  if (settings.saveSteps > 0 && settings.outputDir === undefined) {
    refuse(`saveSteps: expected an outputDir beside ${settings.saveSteps}, found none`)
  }
  if (settings.warmupSteps > 0 && settings.warmupRatio > 0) {
    refuse(
      `expected one of warmupSteps and warmupRatio, found both (${show(settings.warmupRatio)})`,
    )
  }
  if (settings.initialAdapter && changesBase(settings.method)) {
    const { kind } = settings.method
    refuse(`initialAdapter: expected a method with an adapter, found ${kind}: fuse it instead`)
  }
  return settings
}

/** How micro-batches are filled: by samples, by tokens, or both limits at once. */
export function packing(settings: TrainerSettings): { batchSize?: number; maxTokens?: number } {
  const { batchSize, maxTokensPerBatch } = settings
  if (maxTokensPerBatch === undefined) return { batchSize: batchSize ?? 8 }
  return batchSize === undefined
    ? { maxTokens: maxTokensPerBatch }
    : { batchSize, maxTokens: maxTokensPerBatch }
}
