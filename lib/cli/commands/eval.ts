// s2ft eval: loss, multiple choice, math, MMLU and MT-Bench answers, with 95% intervals.
import { basename, resolve } from 'node:path'
import type { Command } from 'commander'
import type { TemplateName } from '../../data/index.js'
import type { EvalTask } from '../../eval/types.js'
import type { Quantization } from '../../native/binding.js'
import { type CommonOptions, makeCommand, quantizeOption, valued } from '../common.js'
import { usage } from '../output.js'
import { type AdapterChoice, adapters, adapterText, collect, integer, oneOf } from '../parse.js'

/** The options as they were checked. */
export interface EvalCommandOptions extends CommonOptions {
  model: string
  quantize?: Quantization
  adapter?: AdapterChoice[]
  /** All data files. */
  files: string[]
  task: EvalTask
  scoring: 'logprob' | 'generate'
  template: TemplateName
  limit?: number
  shots?: number
  dev?: string
  batchSize: number
  maxNewTokens: number
  maxLength?: number
  seed?: number
  modelId: string
  output?: string
  resume: boolean
  overwrite: boolean
  force: boolean
}

type Given = Omit<EvalCommandOptions, 'modelId' | 'maxNewTokens'> & {
  data: string[]
  modelId?: string
  maxNewTokens?: number
}

const MAX_NEW_TOKENS = { 'mt-bench': 1024, other: 256 }

export function evalCommand(): Command {
  return makeCommand<Given>(
    'eval',
    'Measures a model, with or without an adapter. Ends with one object: loss, or accuracy, its ' +
      '95% interval, and the number of samples; with several data files the mean over them. ' +
      'Ctrl-C stops; with --output, --resume continues later.',
    (command) =>
      command
        .argument('[files...]', 'more data files')
        .requiredOption('--model <dir>', 'base model: a Hugging Face directory')
        .requiredOption(
          '--data <file>',
          'evaluation data: JSON lines, a JSON array or text; repeatable',
          collect,
        )
        .addOption(
          valued(
            '--adapter <dir>',
            'adapter to fuse first, or <dir>=<weight>; repeatable',
            adapters,
          ),
        )
        .addOption(quantizeOption())
        .addOption(
          valued(
            '--task <name>',
            'loss: mean loss over completions; choice: multiple choice; math: the last number of ' +
              "a generated answer; mmlu: multiple choice by subject; mt-bench: answers for FastChat's judge",
            oneOf('loss', 'choice', 'math', 'mmlu', 'mt-bench'),
            'loss',
          ),
        )
        .addOption(
          valued(
            '--scoring <how>',
            "choice: by the options' log-probabilities, or by the option that a generated answer names",
            oneOf('logprob', 'generate'),
            'logprob',
          ),
        )
        .addOption(
          valued(
            '--template <name>',
            'prompt template, the one of training: auto, chat, alpaca, none',
            oneOf('auto', 'chat', 'alpaca', 'none'),
            'auto',
          ),
        )
        .addOption(valued('--limit <n>', 'only the first n rows of each file', integer({ min: 1 })))
        .addOption(valued('--shots <n>', 'mmlu: examples in the prompt', integer({ min: 0 })))
        .option('--dev <file>', 'mmlu: where the examples come from')
        .addOption(valued('--batch-size <n>', 'samples at once', integer({ min: 1 }), 8))
        .addOption(
          valued(
            '--max-new-tokens <n>',
            'longest generated answer (default: 256; mt-bench: 1024 a turn)',
            integer({ min: 1 }),
          ),
        )
        .addOption(
          valued(
            '--max-length <tokens>',
            'loss: longest sample; mmlu: longest prompt, reached by fewer examples (default: what the model can take)',
            integer({ min: 2 }),
          ),
        )
        .addOption(
          valued('--seed <n>', 'mt-bench: of the sampling', integer({ min: 0, max: 2 ** 32 - 1 })),
        )
        .option('--model-id <name>', "mt-bench: the model's name in the answers")
        .option('--output <file>', 'write one JSON line a sample to this file')
        .option('--resume', 'continue the evaluation that --output holds a part of', false)
        .option('--overwrite', 'replace the results that --output holds', false)
        .option('--force', 'fuse although the adapter was trained on another base', false),
    async (given, out) => {
      const { runEvaluation } = await import('../eval-run.js')
      await runEvaluation(checked(given), out)
    },
  )
}

function modelName({ adapter, model }: Given): string {
  if (adapter === undefined) return basename(resolve(model))
  return adapter.map((choice) => basename(resolve(adapterText(choice)))).join('+')
}

/** Throws USAGE for options that contradict each other. */
function checked(given: Given & CommonOptions): EvalCommandOptions {
  const { task, scoring, shots, dev, output } = given
  const files = [...given.data, ...(given.files ?? [])]
  const only = (flag: string, owner: EvalTask) =>
    usage(`option '${flag}' is for --task ${owner}, found --task ${task}`)
  if (scoring === 'generate' && task !== 'choice') throw only('--scoring generate', 'choice')
  if (task !== 'mmlu' && shots !== undefined) throw only('--shots', 'mmlu')
  if (task !== 'mmlu' && dev !== undefined) throw only('--dev', 'mmlu')
  if (task !== 'mt-bench' && given.seed !== undefined) throw only('--seed', 'mt-bench')
  if (task !== 'mt-bench' && given.modelId !== undefined) throw only('--model-id', 'mt-bench')
  if ((shots ?? 0) > 0 && dev === undefined) throw usage("option '--shots' needs '--dev'")
  if (dev !== undefined && !shots) throw usage("option '--dev' needs '--shots'")
  if (given.resume && output === undefined) throw usage("option '--resume' needs '--output'")
  if (given.overwrite && output === undefined) throw usage("option '--overwrite' needs '--output'")
  if (given.overwrite && given.resume) {
    throw usage("options '--resume' and '--overwrite' exclude each other")
  }
  const twice = files.find((file, i) => files.indexOf(file) < i)
  if (twice !== undefined) throw usage(`data file ${twice} is given twice`)
  const inputs = dev === undefined ? files : [...files, dev]
  const lost = inputs.find((file) => output !== undefined && resolve(file) === resolve(output))
  if (lost !== undefined) throw usage(`option '--output': the data in ${lost} would be overwritten`)
  if (task === 'mt-bench') {
    if (output === undefined)
      throw usage("--task mt-bench needs '--output', a file for the answers")
    if (files.length > 1) throw usage('--task mt-bench expects one data file')
  }
  return {
    ...given,
    files,
    maxNewTokens: given.maxNewTokens ?? MAX_NEW_TOKENS[task === 'mt-bench' ? task : 'other'],
    modelId: given.modelId ?? modelName(given),
  }
}
