// Turns what was given on the command line and in the config file into one checked set of
// settings, and those into what the trainer takes.
import type { Command } from 'commander'
import type { Adapter } from '../adapter/adapter.js'
import type { TemplateName } from '../data/index.js'
import { dora, full, galore, lisa, lora, loreft, sparse } from '../method/index.js'
import type { Method, SparseMethod } from '../method/types.js'
import type { Quantization, Recompute } from '../native/binding.js'
import type { SchedulerName, TrainerOptions } from '../trainer/types.js'
import { readConfigFile } from './config-file.js'
import type { implementedMethods } from './method-settings.js'
import { usage } from './output.js'
import { checkSelection, type SelectionSettings, s2ftMethod } from './selection-options.js'
import { commonSettings, kebab, trainSettings } from './train-settings.js'

type MethodName = (typeof implementedMethods)[number]

/** Settings as given; what is absent is left to the trainer's defaults. */
export interface TrainSettings extends SelectionSettings {
  model: string
  data: string
  output: string
  overwriteOutputDir?: boolean
  template?: TemplateName
  maxLength?: number
  maxSamples?: number
  method?: MethodName
  loraR?: number
  loraAlpha?: number
  loraDropout?: number
  loraRslora?: boolean
  loraRankPattern?: Record<string, number>
  loraAlphaPattern?: Record<string, number>
  targetModules?: string[]
  sparseShare?: number
  sparseSelection?: SparseMethod['selection']
  sparseCalibrationShare?: number
  galoreR?: number
  galoreUpdateInterval?: number
  galoreScale?: number
  loreftR?: number
  loreftLayers?: 'all' | number[]
  loreftPositions?: string
  loreftSeparateWeights?: boolean
  loreftDropout?: number
  lisaLayers?: number
  lisaInterval?: number
  quantize?: Quantization
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
  distributed?: 'auto' | 'off' | 'mpi'
  distributedTimeout?: number
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

const lowRank: MethodName[] = ['lora', 'dora']
/** Which methods an option is for; the others are for all. */
const methodsOf: Partial<Record<keyof TrainSettings, MethodName[]>> = {
  ratios: ['s2ft'],
  budgetLoraRank: ['s2ft'],
  selection: ['s2ft'],
  selectionOrder: ['s2ft'],
  calibrationShare: ['s2ft'],
  allocation: ['s2ft'],
  avoid: ['s2ft'],
  loraR: lowRank,
  loraAlpha: lowRank,
  loraDropout: lowRank,
  loraRslora: lowRank,
  loraRankPattern: lowRank,
  loraAlphaPattern: lowRank,
  targetModules: [...lowRank, 'sparse'],
  quantize: ['s2ft', ...lowRank, 'loreft'],
  sparseShare: ['sparse'],
  sparseSelection: ['sparse'],
  sparseCalibrationShare: ['sparse'],
  galoreR: ['galore'],
  galoreUpdateInterval: ['galore'],
  galoreScale: ['galore'],
  loreftR: ['loreft'],
  loreftLayers: ['loreft'],
  loreftPositions: ['loreft'],
  loreftSeparateWeights: ['loreft'],
  loreftDropout: ['loreft'],
  lisaLayers: ['lisa'],
  lisaInterval: ['lisa'],
}

/** An option of another method would be ignored in silence: refuse it. */
function refuseMethodMix(command: Command, settings: TrainSettings): void {
  const method = settings.method ?? 's2ft'
  for (const [key, owners] of Object.entries(methodsOf)) {
    if (owners.includes(method) || command.getOptionValueSource(key) === undefined) continue
    const wanted = owners.join(' or ')
    throw usage(`option '--${kebab(key)}' is for --method ${wanted}, found --method ${method}`)
  }
  checkSelection(settings)
}

type Given<T> = { [K in keyof T]?: Exclude<T[K], undefined> }

/** Only what was given: methods know their own defaults. */
function given<T extends object>(options: T): Given<T> {
  const entries = Object.entries(options).filter(([, value]) => value !== undefined)
  return Object.fromEntries(entries) as Given<T>
}

function targets({ targetModules: found }: TrainSettings): string[] | 'all-linear' | undefined {
  return found?.length === 1 && found[0] === 'all-linear' ? 'all-linear' : found
}

/** The method asked for; S²FT leaves alone what `avoid` trains. */
export function methodOf(settings: TrainSettings, avoid: readonly Adapter[] = []): Method {
  const { method = 's2ft', seed = 0 } = settings
  if (method === 'full') return full()
  if (method === 'lisa') {
    return lisa(given({ layers: settings.lisaLayers, interval: settings.lisaInterval, seed }))
  }
  if (method === 's2ft') return s2ftMethod(settings, avoid)
  if (method === 'galore') {
    return galore(
      given({
        r: settings.galoreR,
        updateInterval: settings.galoreUpdateInterval,
        scale: settings.galoreScale,
        seed,
      }),
    )
  }
  if (method === 'sparse') {
    return sparse(
      given({
        share: settings.sparseShare,
        selection: settings.sparseSelection,
        calibrationShare: settings.sparseCalibrationShare,
        targetModules: targets(settings),
        seed,
      }),
    )
  }
  if (method === 'loreft') {
    return loreft(
      given({
        r: settings.loreftR,
        layers: settings.loreftLayers,
        positions: settings.loreftPositions,
        shareWeights: !settings.loreftSeparateWeights,
        dropout: settings.loreftDropout,
        seed,
      }),
    )
  }
  const options = given({
    r: settings.loraR,
    alpha: settings.loraAlpha,
    dropout: settings.loraDropout,
    rslora: settings.loraRslora,
    rankPattern: settings.loraRankPattern,
    alphaPattern: settings.loraAlphaPattern,
    targetModules: targets(settings),
    seed,
  })
  return method === 'lora' ? lora(options) : dora(options)
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
