// trainer_state.json: where a run stands, and everything that decides how it goes on.
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { S2FTError } from '../errors.js'
import type { Model } from '../model/model.js'
import { readJson, show, validate } from '../model/validate.js'
import { STATE_FILE } from './checkpoint.js'
import { packing, type TrainerSettings } from './options.js'

const STATE_VERSION = 1
const natural = z.number().int().nonnegative()

const schema = z.strictObject({
  version: z.literal(STATE_VERSION),
  /** Optimizer steps done. */
  step: natural,
  /** Epoch of the next step, and its place in that epoch. */
  epoch: natural,
  stepInEpoch: natural,
  totalSteps: natural,
  /** Tokens seen so far, trained or not. */
  inputTokens: natural,
  /** What decides the result, flat: a resumed run must have the same. */
  run: z.record(z.string(), z.unknown()),
  /** What may change the last bits of the result. */
  machine: z.record(z.string(), z.unknown()),
})

export type TrainerState = z.infer<typeof schema>

/** Everything that decides the numbers of a run. */
export function runSignature(
  model: Model,
  settings: TrainerSettings,
  run: {
    initialAdapter: string
    baseFingerprint: string
    data: string
    samples: number
    warmupSteps: number
    totalSteps: number
  },
): Record<string, unknown> {
  const { batchSize = 0, maxTokens = 0 } = packing(settings)
  return {
    base: run.baseFingerprint,
    dtype: model.dtype,
    device: model.device,
    data: run.data,
    samples: run.samples,
    method: settings.method,
    ...(settings.initialAdapter ? { initialAdapter: run.initialAdapter } : {}),
    learningRate: settings.learningRate,
    weightDecay: settings.weightDecay,
    adamBeta1: settings.adamBeta1,
    adamBeta2: settings.adamBeta2,
    adamEpsilon: settings.adamEpsilon,
    maxGradNorm: settings.maxGradNorm,
    lrScheduler: settings.lrScheduler,
    batchSize,
    maxTokensPerBatch: maxTokens,
    gradientAccumulationSteps: settings.gradientAccumulationSteps,
    shuffle: settings.shuffle,
    seed: settings.seed,
    recompute: settings.recompute,
    // Last: what follows from the options is named only when they agree.
    warmupSteps: run.warmupSteps,
    // A constant rate does not depend on the end, so such a run may be made longer.
    ...(settings.lrScheduler === 'constant' ? {} : { totalSteps: run.totalSteps }),
  }
}

/** Sorted keys, so that the order in which options were given does not matter. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  )
}

/** Throws INVALID_ARGUMENT naming the first thing in which the checkpoint's run differs. */
export function requireSameRun(
  state: TrainerState,
  run: Record<string, unknown>,
  path: string,
): void {
  for (const key of new Set([...Object.keys(run), ...Object.keys(state.run)])) {
    if (canonical(state.run[key]) === canonical(run[key])) continue
    throw new S2FTError(
      'INVALID_ARGUMENT',
      `resume from ${path}: ${key}: expected ${show(state.run[key])} as in the checkpoint, ` +
        `found ${show(run[key])}: a resumed run must continue the same run`,
      { details: { option: key, expected: state.run[key], found: run[key] } },
    )
  }
}

export async function writeState(directory: string, state: TrainerState): Promise<void> {
  await writeFile(join(directory, STATE_FILE), `${JSON.stringify(state, null, 2)}\n`)
}

/** Throws IO when it is missing, CORRUPT_FILE naming the field. */
export async function readState(directory: string): Promise<TrainerState> {
  const file = join(directory, STATE_FILE)
  return validate(schema, await readJson(file, 'CORRUPT_FILE'), file, 'CORRUPT_FILE')
}

/** What differs on this machine and may change the last bits; empty when nothing does. */
export function machineWarnings(state: TrainerState, model: Model): string[] {
  return Object.entries(machineOf(model))
    .filter(([key, found]) => state.machine[key] !== found)
    .map(
      ([key, found]) =>
        `the checkpoint was made with ${key} ${show(state.machine[key])}, this run has ` +
        `${show(found)}: results may differ in the last bits`,
    )
}

export function machineOf(model: Model): Record<string, unknown> {
  return { threads: model.threads, arithmetic: model.arithmetic }
}
