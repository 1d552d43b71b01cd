// Runs what `s2ft eval` was asked for: every data file in turn, samples into a file as they come.
import { type Dataset, loadDataset } from '../data/index.js'
import { S2FTError } from '../errors.js'
import { evaluateChoice, evaluateGenerated } from '../eval/accuracy.js'
import { evaluateLoss } from '../eval/loss.js'
import { evaluateMmlu } from '../eval/mmlu.js'
import {
  answeredSample,
  answerLine,
  evaluateMtBench,
  loadMtBench,
  type MtBenchQuestion,
} from '../eval/mt-bench.js'
import { ResultsFile } from '../eval/results-file.js'
import { taskNames } from '../eval/task-names.js'
import type { EvalOptions, EvalResult, EvalSample } from '../eval/types.js'
import type { Model } from '../model/model.js'
import type { EvalCommandOptions } from './commands/eval.js'
import { type FileResult, reportEvaluation } from './eval-report.js'
import { evaluationSettings } from './eval-settings.js'
import { interruptSignal, loadModel } from './load.js'
import type { Output } from './output.js'
import { adapterText } from './parse.js'
import { Progress } from './progress.js'

/** A data file that was read, and how its samples are kept as lines. */
interface Part {
  file: string
  rows: number
  evaluate: (model: Model, settings: EvalOptions) => Promise<EvalResult>
  toLine: (sample: EvalSample) => object
  /** Undefined for lines of other files. */
  fromLine: (line: Record<string, unknown>) => EvalSample | undefined
}

/** Throws IO, INVALID_DATA. */
async function readParts(options: EvalCommandOptions): Promise<Part[]> {
  const { files, task, limit } = options
  if (task === 'mt-bench') {
    return [mtBenchPart(files[0]!, await loadMtBench(files[0]!, limit), options)]
  }
  const dev = options.dev === undefined ? undefined : await loadDataset(options.dev)
  const parts: Part[] = []
  for (const file of files) {
    const dataset = await loadDataset(file, limit === undefined ? {} : { limit })
    parts.push({
      file,
      rows: dataset.rows.length,
      evaluate: (model, settings) => evaluateDataset(model, dataset, dev, options, settings),
      toLine: (sample) => ({ data: file, ...sample }),
      fromLine: ({ data, ...sample }) => (data === file ? (sample as EvalSample) : undefined),
    })
  }
  return parts
}

function mtBenchPart(
  file: string,
  questions: MtBenchQuestion[],
  { modelId, seed }: EvalCommandOptions,
): Part {
  return {
    file,
    rows: questions.length,
    evaluate: (model, settings) =>
      evaluateMtBench(model, questions, {
        ...settings,
        modelId,
        ...(seed !== undefined && { seed }),
      }),
    toLine: answerLine,
    fromLine: (line) => answeredSample(line, questions),
  }
}

function evaluateDataset(
  model: Model,
  dataset: Dataset,
  dev: Dataset | undefined,
  { task, scoring, shots }: EvalCommandOptions,
  settings: EvalOptions,
): Promise<EvalResult> {
  if (task === 'loss') return evaluateLoss(model, dataset, settings)
  if (task === 'mmlu') {
    return evaluateMmlu(model, dataset, { ...settings, shots: shots ?? 0, ...(dev && { dev }) })
  }
  if (task === 'choice' && scoring === 'logprob') return evaluateChoice(model, dataset, settings)
  return evaluateGenerated(model, dataset, task === 'math' ? task : 'choice', settings)
}

/** Throws what reading, loading, evaluating and writing throw. */
export async function runEvaluation(options: EvalCommandOptions, out: Output): Promise<void> {
  const parts = await readParts(options)
  await using model = await loadModel(options)
  const results = await openResults(options, model)
  let running: PartRun | undefined
  const interrupt = interruptSignal(() => running?.progress.note('stopping after this batch'))
  const start = performance.now()
  const found: FileResult[] = []
  const names = taskNames(options.files)
  let kept = 0
  try {
    for (const [i, part] of parts.entries()) {
      const name = names[i]!
      const label = parts.length > 1 ? `evaluating ${name}` : 'evaluating'
      running = new PartRun(part, results, kept, label, interrupt.signal, options)
      const began = performance.now()
      const result = await running.evaluate(model)
      kept += running.lines
      const seconds = (performance.now() - began) / 1000
      found.push({ name, data: part.file, seconds, result })
    }
    const seconds = (performance.now() - start) / 1000
    reportEvaluation(out, found, {
      adapter: options.adapter?.map(adapterText).join(', ') ?? null,
      seconds,
    })
  } catch (error) {
    const cancelled = error instanceof S2FTError && error.code === 'CANCELLED'
    if (!cancelled || !interrupt.signal.aborted) throw error
    out.event({ type: 'interrupted', output: options.output ?? null })
    out.note(
      options.output === undefined
        ? 'stopped'
        : `stopped; the same command with --resume continues ${options.output}`,
    )
    process.exitCode = interrupt.status
  } finally {
    interrupt.stop()
    results?.close()
  }
}

async function openResults(
  options: EvalCommandOptions,
  model: Model,
): Promise<ResultsFile | undefined> {
  const { output, resume, overwrite } = options
  if (output === undefined) return undefined
  const settings = await evaluationSettings(options, model)
  return resume
    ? ResultsFile.resume(output, settings)
    : ResultsFile.create(output, settings, overwrite)
}

/** The evaluation of one data file. */
class PartRun {
  /** Lines of this file's samples in the results. */
  lines = 0
  readonly progress: Progress

  constructor(
    private readonly part: Part,
    private readonly results: ResultsFile | undefined,
    /** Lines of the files before. */
    private readonly before: number,
    label: string,
    private readonly signal: AbortSignal,
    private readonly options: EvalCommandOptions,
  ) {
    this.progress = new Progress(label)
  }

  async evaluate(model: Model): Promise<EvalResult> {
    const { template, batchSize, maxNewTokens, maxLength } = this.options
    const { progress, results } = this
    const done = this.earlier()
    progress.start(this.part.rows, done.length)
    try {
      return await this.part.evaluate(model, {
        ...{ template, batchSize, maxNewTokens, done },
        ...(maxLength !== undefined && { maxLength }),
        signal: this.signal,
        onWarning: (warning) => progress.note(`warning: ${warning}`),
        onProgress: (count, total, status) => progress.update(count, total, status),
        onResume: (kept) => {
          this.lines = kept
        },
        onSample: (sample) => {
          // What follows the samples that stand was not complete.
          const lines = this.before + this.lines++
          if (results && results.lines.length > lines) results.keep(lines)
          results?.append(this.part.toLine(sample))
        },
      })
    } finally {
      progress.stop()
    }
  }

  /** This file's samples among the lines of an interrupted evaluation. */
  private earlier(): EvalSample[] {
    const samples: EvalSample[] = []
    for (const line of this.results?.lines.slice(this.before) ?? []) {
      const sample = this.part.fromLine(line)
      if (!sample) break
      samples.push(sample)
    }
    return samples
  }
}
