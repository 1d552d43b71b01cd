// The settings of `s2ft train`, once: their flags, their names in a config file, how a value is
// read, what help says.
import type { Command } from 'commander'
import { Option } from 'commander'
import { methodSettings } from './method-settings.js'
import { byteCount, collect, integer, number, oneOf } from './parse.js'

/** How a setting is written and read. Flags are the kebab-case form of `key`. */
export interface Setting {
  key: string
  /** Name of the value in help; absent for switches. */
  value?: string
  short?: string
  description: string
  /** Help shows it; the effective default lives with the trainer or the method. */
  fallback?: string | number | boolean
  group: 'Input and output' | 'Method' | 'Training' | 'Evaluation and checkpoints' | 'Machine'
  /** Absent for switches. */
  read?: (text: string) => unknown
  /** The value may be left out: then it is `true`. */
  optionalValue?: boolean
  /** May be given several times: the values make a list. */
  repeatable?: boolean
}

const text = (value: string) => value
const count = integer({ min: 1 })
const countOrZero = integer({ min: 0 })

const inputOutput: Omit<Setting, 'group'>[] = [
  { key: 'model', value: 'dir', description: 'base model: a Hugging Face directory', read: text },
  {
    key: 'data',
    value: 'file',
    description: 'training data: JSON lines, a JSON array or text',
    read: text,
  },
  {
    key: 'output',
    short: 'o',
    value: 'dir',
    description:
      'where the adapter (full, lisa, galore: the model), metrics.jsonl and checkpoints go',
    read: text,
  },
  {
    key: 'overwriteOutputDir',
    description:
      'use an output directory that is not empty; checkpoints of an earlier run in it are removed',
    fallback: false,
  },
  {
    key: 'template',
    value: 'name',
    description:
      "prompt template: auto (the model's chat template if it has one, else alpaca), chat, alpaca, none",
    fallback: 'auto',
    read: oneOf('auto', 'chat', 'alpaca', 'none'),
  },
  {
    key: 'maxLength',
    value: 'tokens',
    description: 'longest sample; longer ones are cut and counted',
    fallback: 1024,
    read: integer({ min: 2 }),
  },
  {
    key: 'maxSamples',
    value: 'n',
    description: 'take only the first n rows of the data',
    read: count,
  },
]

const training: Omit<Setting, 'group'>[] = [
  {
    key: 'learningRate',
    value: 'rate',
    description: 'highest learning rate',
    fallback: 2e-4,
    read: number({ above: 0 }),
  },
  {
    key: 'lrScheduler',
    value: 'name',
    description: 'linear, cosine or constant, after warm-up',
    fallback: 'linear',
    read: oneOf('linear', 'cosine', 'constant'),
  },
  {
    key: 'warmupSteps',
    value: 'n',
    description: 'steps over which the learning rate rises',
    fallback: 0,
    read: countOrZero,
  },
  {
    key: 'warmupRatio',
    value: 'share',
    description: 'the same as a share of all steps; not with --warmup-steps',
    fallback: 0,
    read: number({ min: 0, max: 1 }),
  },
  {
    key: 'numTrainEpochs',
    value: 'n',
    description: 'passes over the data; may be a fraction',
    fallback: 1,
    read: number({ above: 0 }),
  },
  {
    key: 'maxSteps',
    value: 'n',
    description: 'optimizer steps; overrides --num-train-epochs when above 0',
    fallback: -1,
    read: integer({ min: -1 }),
  },
  {
    key: 'batchSize',
    value: 'n',
    description: 'samples in a micro-batch, of each rank',
    fallback: 8,
    read: count,
  },
  {
    key: 'maxTokensPerBatch',
    value: 'n',
    description: 'fill micro-batches up to this many tokens instead of counting samples',
    read: count,
  },
  {
    key: 'gradientAccumulationSteps',
    value: 'n',
    description: 'micro-batches in an optimizer step',
    fallback: 1,
    read: count,
  },
  {
    key: 'weightDecay',
    value: 'w',
    description: 'decoupled weight decay of what trains',
    fallback: 0,
    read: number({ min: 0 }),
  },
  {
    key: 'adamBeta1',
    value: 'b',
    description: 'AdamW: decay of the first moment',
    fallback: 0.9,
    read: number({ min: 0, max: 0.999999 }),
  },
  {
    key: 'adamBeta2',
    value: 'b',
    description: 'AdamW: decay of the second moment',
    fallback: 0.999,
    read: number({ min: 0, max: 0.999999 }),
  },
  {
    key: 'adamEpsilon',
    value: 'e',
    description: 'AdamW: added to the denominator',
    fallback: 1e-8,
    read: number({ above: 0 }),
  },
  {
    key: 'maxGradNorm',
    value: 'n',
    description: 'clip gradients to this global norm; 0 does not clip',
    fallback: 1,
    read: number({ min: 0 }),
  },
  { key: 'shuffle', description: 'take samples in a new order each epoch', fallback: true },
  {
    key: 'recompute',
    value: 'what',
    description: 'recompute activations instead of keeping them: none, selective, block',
    fallback: 'selective',
    read: oneOf('none', 'selective', 'block'),
  },
  {
    key: 'memoryLimit',
    value: 'bytes',
    description: 'refuse to start when more memory would be held, e.g. 8GB',
    fallback: 'what is available',
    read: byteCount,
  },
]

const evaluation: Omit<Setting, 'group'>[] = [
  {
    key: 'evalData',
    value: 'file',
    description: 'data whose loss is measured during training',
    read: text,
  },
  {
    key: 'evalSteps',
    value: 'n',
    description: 'steps between evaluations; without it only after the last step',
    read: count,
  },
  {
    key: 'evalSamples',
    value: 'n',
    description: 'take only the first n rows of the evaluation data',
    read: count,
  },
  {
    key: 'loggingSteps',
    value: 'n',
    description: 'steps between lines of metrics.jsonl',
    fallback: 1,
    read: count,
  },
  {
    key: 'saveSteps',
    value: 'n',
    description: 'steps between checkpoints; 0: only when interrupted',
    fallback: 0,
    read: countOrZero,
  },
  {
    key: 'saveTotalLimit',
    value: 'n',
    description: 'newest checkpoints kept; 0 keeps all',
    fallback: 0,
    read: countOrZero,
  },
  {
    key: 'resume',
    value: 'checkpoint',
    optionalValue: true,
    description: 'continue from this checkpoint, or from the newest in the output directory',
    read: text,
  },
  {
    key: 'distributed',
    value: 'how',
    description:
      'train as one of several ranks: auto (when mpirun or srun started several), mpi, off',
    fallback: 'auto',
    read: oneOf('auto', 'off', 'mpi'),
  },
  {
    key: 'distributedTimeout',
    value: 'seconds',
    description: 'after which a rank that others wait for counts as lost',
    fallback: 1800,
    read: number({ above: 0 }),
  },
  {
    key: 'allowDifferentMachine',
    description: 'resume with other threads or arithmetic, no longer bitwise the same run',
    fallback: false,
  },
]

const grouped: [Setting['group'], Omit<Setting, 'group'>[]][] = [
  ['Input and output', inputOutput],
  ['Method', methodSettings],
  ['Training', training],
  ['Evaluation and checkpoints', evaluation],
]

/** All settings of `s2ft train` that have no other home. */
export const trainSettings: Setting[] = grouped.flatMap(([group, settings]) =>
  settings.map((setting) => ({ ...setting, group })),
)

/** Options of every command that a config file may hold too. */
export const commonSettings: Setting[] = [
  { key: 'device', value: 'kind', description: '', read: oneOf('cpu', 'cuda', 'auto') },
  { key: 'dtype', value: 'type', description: '', read: oneOf('bf16', 'f32', 'auto') },
  { key: 'threads', value: 'n', description: '', read: integer({ min: 0, max: 1024 }) },
  { key: 'arithmetic', value: 'kind', description: '', read: oneOf('auto', 'native', 'widen') },
].map((setting) => ({ ...setting, group: 'Machine' as const }))

/** `learningRate` → `learning-rate`. */
export function kebab(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
}

/** Adds the settings as options, grouped in help. */
export function addSettings(command: Command, settings: readonly Setting[]): void {
  for (const setting of settings) {
    const { key, value, short, description, fallback, group, read, optionalValue } = setting
    const dashed = fallback === true ? `no-${kebab(key)}` : kebab(key)
    const wanted = value === undefined ? '' : optionalValue ? ` [${value}]` : ` <${value}>`
    const shown =
      fallback === undefined || typeof fallback === 'boolean' ? '' : ` (default: ${fallback})`
    const about = fallback === true ? `do not ${description}` : description
    const option = new Option(`${short ? `-${short}, ` : ''}--${dashed}${wanted}`, about + shown)
    option.helpGroup(`${group}:`)
    if (setting.repeatable) option.argParser(collect)
    else if (read) option.argParser(read)
    command.addOption(option)
  }
}
