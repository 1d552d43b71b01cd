// s2ft eval: loss, multiple choice and math, with 95% intervals.

import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import { finished } from 'node:stream/promises'
import type { Command } from 'commander'
import type { TemplateName } from '../../data/index.js'
import { S2FTError } from '../../errors.js'
import type { EvalOptions, EvalTask } from '../../eval/types.js'
import { percent } from '../../report/format.js'
import { type CommonOptions, makeCommand, valued } from '../common.js'
import { interruptSignal, loadModel } from '../load.js'
import { type Output, usage } from '../output.js'
import { integer, oneOf } from '../parse.js'
import { Progress } from '../progress.js'

interface Options {
  model: string
  adapter?: string
  data: string
  task: EvalTask
  scoring: 'logprob' | 'generate'
  template: TemplateName
  limit?: number
  batchSize: number
  maxNewTokens: number
  maxLength?: number
  output?: string
  force: boolean
}

export function evalCommand(): Command {
  return makeCommand<Options>(
    'eval',
    'Measures a model, with or without an adapter. Ends with one object: loss, or accuracy, its ' +
      '95% interval, and the number of samples.',
    (command) =>
      command
        .requiredOption('--model <dir>', 'base model: a Hugging Face directory')
        .requiredOption('--data <file>', 'evaluation data: JSON lines, a JSON array or text')
        .option('--adapter <dir>', 'S²FT or LoRA adapter to fuse first')
        .addOption(
          valued(
            '--task <name>',
            'loss: mean loss over completions; choice: multiple choice; math: the last number of a generated answer',
            oneOf('loss', 'choice', 'math'),
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
        .addOption(valued('--limit <n>', 'only the first n rows', integer({ min: 1 })))
        .addOption(valued('--batch-size <n>', 'samples at once', integer({ min: 1 }), 8))
        .addOption(
          valued('--max-new-tokens <n>', 'longest generated answer', integer({ min: 1 }), 256),
        )
        .addOption(valued('--max-length <tokens>', 'loss: longest sample', integer({ min: 2 })))
        .option('--output <file>', 'write one JSON line a sample to this file')
        .option('--force', 'fuse although the adapter was trained on another base', false),
    run,
  )
}

async function run(options: Options & CommonOptions, out: Output): Promise<void> {
  const { loadDataset } = await import('../../data/index.js')
  const { task, limit, scoring } = options
  if (scoring === 'generate' && task !== 'choice') {
    throw usage(`option '--scoring generate' is for --task choice, found --task ${task}`)
  }
  const dataset = await loadDataset(options.data, limit === undefined ? {} : { limit })
  await using model = await loadModel(options)
  const file = options.output === undefined ? undefined : createWriteStream(options.output)
  if (file) await once(file, 'open')
  let failure: Error | undefined
  const closeFile = async () => {
    if (!file || file.writableEnded) return
    file.end()
    // What went wrong is in `failure`.
    await finished(file).catch(() => {})
  }
  file?.on('error', (error) => {
    failure ??= error
  })
  const requireWritten = () => {
    if (!failure) return
    throw new S2FTError('IO', `could not write ${options.output}: ${failure.message}`, {
      cause: failure,
    })
  }
  const progress = new Progress('evaluating')
  const interrupt = interruptSignal(() => progress.note('stopping after this batch'))
  const settings: EvalOptions = {
    template: options.template,
    batchSize: options.batchSize,
    maxNewTokens: options.maxNewTokens,
    ...(options.maxLength !== undefined && { maxLength: options.maxLength }),
    signal: interrupt.signal,
    onWarning: (warning) => progress.note(`warning: ${warning}`),
    onProgress: (done, total, status) => progress.update(done, total, status),
    ...(file && {
      onSample: (sample) => {
        requireWritten()
        file.write(`${JSON.stringify(sample)}\n`)
      },
    }),
  }
  progress.start(dataset.rows.length)
  const start = performance.now()
  try {
    const result = await evaluate(model, dataset, options, settings)
    progress.stop()
    await closeFile()
    requireWritten()
    const seconds = (performance.now() - start) / 1000
    report(out, { ...result, data: options.data, adapter: options.adapter ?? null, seconds })
  } finally {
    progress.stop()
    interrupt.stop()
    await closeFile()
  }
}

async function evaluate(
  model: import('../../model/model.js').Model,
  dataset: import('../../data/index.js').Dataset,
  { task, scoring }: Options,
  settings: EvalOptions,
) {
  if (task === 'loss') {
    const { evaluateLoss } = await import('../../eval/loss.js')
    return evaluateLoss(model, dataset, settings)
  }
  const { evaluateChoice, evaluateGenerated } = await import('../../eval/accuracy.js')
  if (task === 'choice' && scoring === 'logprob') return evaluateChoice(model, dataset, settings)
  return evaluateGenerated(model, dataset, task, settings)
}

type Evaluated = Awaited<ReturnType<typeof evaluate>>

type Reported = Evaluated & { data: string; adapter: string | null; seconds: number }

function report(out: Output, result: Reported): void {
  out.event({ type: 'result', ...result })
  const [low, high] = result.interval
  if (result.task === 'loss') {
    const { loss, perplexity, count, tokens, truncated } = result
    out.line(`loss        ${loss.toFixed(4)}  [${low.toFixed(4)}, ${high.toFixed(4)}]`)
    out.line(`perplexity  ${perplexity.toFixed(3)}`)
    out.line(`samples     ${count} (${tokens} scored tokens, ${truncated} samples cut)`)
  } else {
    const { accuracy, correct, count } = result
    out.line(`accuracy  ${percent(accuracy)}  [${percent(low)}, ${percent(high)}]`)
    out.line(`correct   ${correct} of ${count}`)
  }
}
