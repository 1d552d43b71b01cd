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
  machine: z.strictObject({
    threads: z.number().int().positive(),
    arithmetic: z.string(),
    /** Ranks that divide a step. */
    ranks: z.number().int().positive().default(1),
  }),
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
    ...(model.quantization ? { quantization: model.quantization } : {}),
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
    // Of all ranks: fewer ranks that accumulate more continue the same run.
    gradientAccumulationSteps: settings.gradientAccumulationSteps * (settings.job?.size ?? 1),
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
export function canonical(value: unknown): string {
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

/** Something in which this machine differs from the checkpoint's, so that last bits may differ. */
export interface MachineDifference {
  option: keyof TrainerState['machine']
  expected: number | string
  found: number | string
  message: string
}

/** Empty when this machine continues the run bit by bit. */
export function machineDifferences(
  state: TrainerState,
  model: Model,
  ranks: number,
): MachineDifference[] {
  const now = machineOf(model, ranks)
  return deciding(state, model).flatMap((option) => {
    const [expected, found] = [state.machine[option], now[option]]
    if (expected === found) return []
    const message =
      `${option}: expected ${show(expected)} as in the checkpoint, found ${show(found)}: ` +
      'the continuation is not bitwise the same'
    return { option, expected, found, message }
  })
}

/** What of a machine decides the last bits. */
function deciding(state: TrainerState, model: Model): (keyof TrainerState['machine'])[] {
  // On a CPU only bf16 weights are multiplied in one arithmetic or the other.
  const cpus = [state.machine, model].every((m) => /^(native|widen)$/.test(m.arithmetic))
  return model.dtype === 'bf16' || !cpus ? ['threads', 'arithmetic', 'ranks'] : ['threads', 'ranks']
}

/** What must be the same on all ranks, so that their weights stay the same. */
export function sharedMachine(model: Model): Record<string, unknown> {
  const { threads, arithmetic } = model
  const one = model.device === 'cpu' && model.dtype === 'f32'
  return one ? { threads } : { threads, arithmetic }
}

/** Throws INVALID_ARGUMENT naming the first difference and what mends it. */
export function requireSameMachine(differences: MachineDifference[], path: string): void {
  const [difference] = differences
  if (!difference) return
  const { message, ...details } = difference
  const wanted = show(details.expected)
  const remedy =
    details.option === 'ranks'
      ? `launch as many ranks as then (${wanted})`
      : `load the model with ${details.option} ${wanted}`
  throw new S2FTError(
    'INVALID_ARGUMENT',
    `resume from ${path}: ${message}: ${remedy}, or accept that with allowDifferentMachine`,
    { details },
  )
}

export function machineOf({ threads, arithmetic }: Model, ranks: number): TrainerState['machine'] {
  return { threads, arithmetic, ranks }
}
