// MMLU: which answer letter is the likeliest behind the question, with examples or without.
import {
  choiceLetter,
  type DataRow,
  type Dataset,
  type EncodedChoice,
  encodeOptions,
  pickOption,
  type SampleTokenizer,
  type TemplateName,
} from '../data/index.js'
import { S2FTError } from '../errors.js'
import type { Model } from '../model/model.js'
import { meanInterval } from './interval.js'
import { LongRows } from './long-rows.js'
import { scoreOptions } from './score-options.js'
import type { EvalOptions, EvalSample, MmluResult } from './types.js'
import { accuracyOf, evaluateUnits, fileOrder, RunningAccuracy } from './units.js'

export interface MmluOptions extends EvalOptions {
  /** Examples before the question. Default 0. */
  shots?: number
  /** Where the examples come from: the first ones of the question's subject. */
  dev?: Dataset
}

type Question = Extract<DataRow, { kind: 'choice' }>

function questionOf(row: DataRow): Question {
  if (row.kind === 'choice') return row
  throw new S2FTError(
    'INVALID_DATA',
    `${row.source}: task "mmlu" expected subject + question + choices + answer, found a "${row.kind}" row`,
  )
}

const subjectOf = (row: Question) => row.subject ?? 'none'

/** The question with its lettered choices, up to where the letter belongs. */
function asked({ question, choices }: Question): string {
  const lines = choices.map((choice, i) => `${choiceLetter(i)}. ${choice}`)
  return [question.trim(), ...lines, 'Answer:'].join('\n')
}

/** The text of the benchmark's own evaluation: a heading, examples with answers, the question. */
export function mmluText(row: Question, examples: readonly Question[]): string {
  const about = subjectOf(row).replaceAll('_', ' ')
  const heading = `The following are multiple choice questions (with answers) about ${about}.`
  const solved = examples.map((example) => `${asked(example)} ${choiceLetter(example.answer)}`)
  return [heading, ...solved, asked(row)].join('\n\n')
}

/**
 * With template none the model continues the text itself, by a space and a letter; otherwise the
 * text is the instruction or the user's turn, and the answer is the letter.
 */
function encode(
  row: Question,
  examples: readonly Question[],
  tokenizer: SampleTokenizer,
  template: TemplateName,
): EncodedChoice {
  const text = mmluText(row, examples)
  const { source } = row
  const asks: DataRow =
    template === 'none'
      ? { kind: 'prompt', prompt: text, completion: '', source }
      : { kind: 'instruction', instruction: text, input: '', output: '', source }
  const labels = row.choices.map((_, i) => choiceLetter(i))
  const answers = template === 'none' ? labels.map((label) => ` ${label}`) : labels
  return { labels, gold: row.answer, ...encodeOptions(asks, answers, tokenizer, { template }) }
}

/** The first `shots` rows of every subject. */
function examplesBySubject(dev: Dataset | undefined, shots: number): Map<string, Question[]> {
  const bySubject = new Map<string, Question[]>()
  if (shots === 0) return bySubject
  if (!dev) throw new S2FTError('INVALID_ARGUMENT', 'shots: expected a dev set for the examples')
  for (const row of dev.rows.map(questionOf)) {
    const examples = bySubject.get(subjectOf(row)) ?? []
    if (examples.length < shots) examples.push(row)
    bySubject.set(subjectOf(row), examples)
  }
  return bySubject
}

/** Throws INVALID_DATA when a subject has too few examples. */
function requireExamples(
  rows: readonly Question[],
  examples: Map<string, Question[]>,
  shots: number,
): void {
  for (const row of rows) {
    const found = examples.get(subjectOf(row))?.length ?? 0
    if (found >= shots) continue
    throw new S2FTError(
      'INVALID_DATA',
      `${row.source}: expected ${shots} examples of subject "${subjectOf(row)}" in the dev set, found ${found}`,
    )
  }
}

/**
 * Accuracy by subject, over all questions, and as the mean over subjects. A prompt longer than
 * `maxLength` (default: the model's positions) gives up examples from the last on.
 * Throws INVALID_DATA naming a row that is not multiple choice, or a subject without examples.
 */
export async function evaluateMmlu(
  model: Model,
  dataset: Dataset,
  options: MmluOptions,
): Promise<MmluResult> {
  const { shots = 0, template } = options
  const tokenizer = await model.tokenizer()
  const rows = dataset.rows.map(questionOf)
  const examples = examplesBySubject(options.dev, shots)
  requireExamples(rows, examples, shots)
  const limit = options.maxLength ?? model.config.maxPositionEmbeddings
  const fitting = (row: Question) => {
    for (let k = shots; ; k--) {
      const given = examples.get(subjectOf(row))?.slice(0, k) ?? []
      const question = encode(row, given, tokenizer, template)
      const longest = Math.max(...question.options.map(({ tokens }) => tokens.length))
      if (longest <= limit || k === 0) return { question, shots: k, longest }
    }
  }
  const long = new LongRows(limit)
  const units = {
    order: fileOrder(rows.length),
    size: options.batchSize,
    running: new RunningAccuracy(),
    evaluate: async (indices: number[], finished: (sample: EvalSample) => void) => {
      const prepared = indices.map((i) => fitting(rows[i]!))
      const scores = await scoreOptions(
        model,
        prepared.map(({ question }) => question),
      )
      for (const [k, { question, shots: given, longest }] of prepared.entries()) {
        const row = rows[indices[k]!]!
        const { labels, gold } = question
        const picked = pickOption(scores[k]!)
        long.add(row.source, longest)
        finished({
          index: indices[k]!,
          source: row.source,
          subject: subjectOf(row),
          correct: picked === gold,
          answer: labels[picked] ?? null,
          expected: labels[gold],
          logProbs: scores[k]!,
          shots: given,
        })
      }
    },
  }
  const samples = await evaluateUnits(units, options)
  long.warn(options.onWarning)
  return { task: 'mmlu', shots, ...accuracyOf(samples), ...subjectsOf(samples, shots) }
}

function subjectsOf(samples: readonly EvalSample[], shots: number) {
  const bySubject = new Map<string, EvalSample[]>()
  for (const sample of samples) {
    const subject = sample.subject as string
    const others = bySubject.get(subject)
    if (others) others.push(sample)
    else bySubject.set(subject, [sample])
  }
  const subjects = [...bySubject].map(([subject, of]) => ({ subject, ...accuracyOf(of) }))
  const mean = meanInterval(
    subjects.map(({ accuracy, interval }) => ({ value: accuracy, interval })),
  )
  return {
    subjects,
    subjectMean: mean.value,
    subjectMeanInterval: mean.interval,
    shortened: samples.filter((sample) => sample.shots !== shots).length,
  }
}
