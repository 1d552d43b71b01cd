// Turns what was given on the command line and in the config file into one checked set of
// settings, and those into what the trainer takes.
import type { Command } from 'commander'
import type { TemplateName } from '../data/index.js'
import { S2FTError } from '../errors.js'
import { full, lora, s2ft } from '../method/index.js'
import type { Method } from '../method/types.js'
import type { ModuleKind, Recompute } from '../native/binding.js'
import type { SchedulerName, TrainerOptions } from '../trainer/types.js'
import { readConfigFile } from './config-file.js'
import { usage } from './output.js'
import {
  commonSettings,
  implementedMethods,
  kebab,
  type plannedMethods,
  trainSettings,
} from './train-settings.js'

type MethodName = (typeof implementedMethods)[number] | (typeof plannedMethods)[number]

/** Settings as given; what is absent is left to the trainer's defaults. */
export interface TrainSettings {
  model: string
  data: string
  output: string
  overwriteOutputDir?: boolean
  template?: TemplateName
  maxLength?: number
  maxSamples?: number
  method?: MethodName
  ratios?: Partial<Record<ModuleKind, number>>
  budgetLoraRank?: number
  loraR?: number
  loraAlpha?: number
  loraDropout?: number
  targetModules?: string[]
  quantize?: string
  seed?: number
  learningRate?: number
  lrScheduler?: SchedulerName
  warmupSteps?: number
  warmupRatio?: number
  numTrainEpochs?: number
  maxSteps?: number
  batchSize?: number
  maxTokensPerBatch?: number
  gradientAccumulationSteps?: number
  weightDecay?: number
  adamBeta1?: number
  adamBeta2?: number
  adamEpsilon?: number
  maxGradNorm?: number
  shuffle?: boolean
  recompute?: Recompute
  memoryLimit?: number
  evalData?: string
  evalSteps?: number
  evalSamples?: number
  loggingSteps?: number
  saveSteps?: number
  saveTotalLimit?: number
  resume?: boolean | string
  allowDifferentMachine?: boolean
}

/**
 * Config file under flags. Writes the merged values back into the command, so that common
 * options come from the file too. Throws USAGE for what is missing or contradicts itself.
 */
export function mergeSettings(command: Command): TrainSettings {
  const config = command.opts<{ config?: string }>().config
  const found = config ? readConfigFile(config, [...trainSettings, ...commonSettings]) : {}
  for (const [key, value] of Object.entries(found)) {
    if (command.getOptionValueSource(key) !== 'cli') {
      command.setOptionValueWithSource(key, value, 'config')
    }
  }
  const settings = command.opts<TrainSettings>()
  for (const key of ['model', 'data', 'output'] as const) {
    if (!settings[key]) throw usage(`required option '--${key}' not given, nor in a config file`)
  }
  refuseMethodMix(command, settings)
  if (settings.evalSteps !== undefined && settings.evalData === undefined) {
    throw usage("option '--eval-steps' needs '--eval-data'")
  }
  return settings
}

const methodSettings: Record<string, string[]> = {
  s2ft: ['ratios', 'budgetLoraRank'],
  lora: ['loraR', 'loraAlpha', 'loraDropout', 'targetModules'],
}

/** An option of another method would be ignored in silence: refuse it. */
function refuseMethodMix(command: Command, settings: TrainSettings): void {
  const method = settings.method ?? 's2ft'
  for (const [owner, keys] of Object.entries(methodSettings)) {
    const given = keys.find((key) => command.getOptionValueSource(key) !== undefined)
    if (given && owner !== method) {
      throw usage(`option '--${kebab(given)}' is for --method ${owner}, found --method ${method}`)
    }
  }
  if (settings.ratios && settings.budgetLoraRank !== undefined) {
    throw usage("options '--ratios' and '--budget-lora-rank' exclude each other")
  }
}

/** The method asked for. Throws UNSUPPORTED for those of later releases. */
export function methodOf(settings: TrainSettings): Method {
  const { method = 's2ft', quantize, seed = 0, ratios, budgetLoraRank, targetModules } = settings
  const available = implementedMethods.join(', ')
  if (quantize !== undefined) {
    const message = `--quantize ${quantize} comes in a later release: leave it out (--dtype bf16 halves the weights)`
    throw new S2FTError('UNSUPPORTED', message)
  }
  if (method === 'full') return full()
  if (method === 's2ft') {
    if (budgetLoraRank !== undefined) return s2ft({ budget: { loraRank: budgetLoraRank }, seed })
    return s2ft({ ...(ratios && { ratios }), seed })
  }
  if (method === 'lora') {
    const all = targetModules?.length === 1 && targetModules[0] === 'all-linear'
    return lora({
      ...(settings.loraR !== undefined && { r: settings.loraR }),
      ...(settings.loraAlpha !== undefined && { alpha: settings.loraAlpha }),
      ...(settings.loraDropout !== undefined && { dropout: settings.loraDropout }),
      ...(targetModules && !all && { targetModules }),
      seed,
    })
  }
  throw new S2FTError(
    'UNSUPPORTED',
    `--method ${method} comes in a later release: available are ${available}`,
  )
}

/** Evaluation data without --eval-steps are used once, after the last step. */
const ONLY_AT_THE_END = Number.MAX_SAFE_INTEGER

const passed = [
  'overwriteOutputDir',
  'seed',
  'learningRate',
  'lrScheduler',
  'warmupSteps',
  'warmupRatio',
  'numTrainEpochs',
  'maxSteps',
  'batchSize',
  'maxTokensPerBatch',
  'gradientAccumulationSteps',
  'weightDecay',
  'adamBeta1',
  'adamBeta2',
  'adamEpsilon',
  'maxGradNorm',
  'shuffle',
  'recompute',
  'memoryLimit',
  'evalSteps',
  'loggingSteps',
  'saveSteps',
  'saveTotalLimit',
] as const satisfies (keyof TrainSettings & keyof TrainerOptions)[]

/** The trainer's options; data are not among them. */
export function trainerOptions(settings: TrainSettings, method: Method): TrainerOptions {
  const given = passed.filter((key) => settings[key] !== undefined)
  return {
    ...Object.fromEntries(given.map((key) => [key, settings[key]])),
    ...(settings.evalData !== undefined &&
      settings.evalSteps === undefined && { evalSteps: ONLY_AT_THE_END }),
    method,
    outputDir: settings.output,
  }
}
