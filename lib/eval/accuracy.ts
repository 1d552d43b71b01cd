// Accuracy: multiple choice by the options' probabilities, or answers read off generated text.
import {
  type Dataset,
  encodeChoice,
  encodePrompt,
  goldOf,
  isCorrect,
  pickOption,
} from '../data/index.js'
import { S2FTError } from '../errors.js'
import type { Model } from '../model/model.js'
import { wilsonInterval } from './interval.js'
import type { AccuracyResult, EvalOptions } from './types.js'

function checkSignal(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new S2FTError('CANCELLED', 'the evaluation was cancelled')
}

/** Counts answers and reports them as they come. */
class Tally {
  correct = 0
  count = 0

  constructor(
    private readonly total: number,
    private readonly options: EvalOptions,
  ) {}

  add(source: string, correct: boolean, sample: object): void {
    this.count++
    if (correct) this.correct++
    this.options.onSample?.({ source, correct, ...sample })
  }

  progress(): void {
    const share = this.correct / Math.max(1, this.count)
    const running = `accuracy ${(100 * share).toFixed(1)}%`
    this.options.onProgress?.(this.count, this.total, running)
  }

  result(): Pick<AccuracyResult, 'accuracy' | 'interval' | 'correct' | 'count'> {
    const { correct, count } = this
    return { accuracy: correct / count, interval: wilsonInterval(correct, count), correct, count }
  }
}

/**
 * Multiple choice by log-probability: of the options, put in the answer's place, the most likely
 * is the model's answer. Throws INVALID_DATA naming a row that is not multiple choice.
 */
export async function evaluateChoice(
  model: Model,
  dataset: Dataset,
  options: EvalOptions,
): Promise<AccuracyResult> {
  const tokenizer = await model.tokenizer()
  const tally = new Tally(dataset.rows.length, options)
  for (let i = 0; i < dataset.rows.length; i += options.batchSize) {
    checkSignal(options.signal)
    const questions = dataset.rows
      .slice(i, i + options.batchSize)
      .map((row) => encodeChoice(row, tokenizer, { template: options.template }))
    const scores = await model.scoreBatch(questions.flatMap((question) => question.options))
    let at = 0
    for (const { prompt, labels, gold, options: sequences } of questions) {
      const logProbs = sequences.map(() => scores[at++]!.reduce((sum, value) => sum + value, 0))
      const picked = pickOption(logProbs)
      const answer = labels[picked] ?? null
      tally.add(prompt.source, picked === gold, { answer, expected: labels[gold], logProbs })
    }
    tally.progress()
  }
  return { task: 'choice', scoring: 'logprob', ...tally.result() }
}

/**
 * Answers generated greedily and read off the text: the last number (math), or the first option
 * named (choice). Throws INVALID_DATA naming a row without an answer of that kind.
 */
export async function evaluateGenerated(
  model: Model,
  dataset: Dataset,
  task: 'choice' | 'math',
  options: EvalOptions,
): Promise<AccuracyResult> {
  const tokenizer = await model.tokenizer()
  const rows = dataset.rows.map((row) => {
    const { tokens, source } = encodePrompt(row, tokenizer, { template: options.template })
    return { tokens, source, gold: goldOf(row, task) }
  })
  const tally = new Tally(rows.length, options)
  const prompts = rows.map((row) => row.tokens)
  await model.generateBatch(prompts, {
    slots: options.batchSize,
    maxNewTokens: options.maxNewTokens,
    ...(options.signal && { signal: options.signal }),
    onResult: (index, { text, finishReason }) => {
      if (finishReason === 'abort') return
      const { source, gold } = rows[index]!
      const expected = gold.task === 'math' ? gold.value : gold.label
      tally.add(source, isCorrect(text, gold), { expected, text, finishReason })
      tally.progress()
    },
  })
  checkSignal(options.signal)
  const scoring = task === 'choice' ? { scoring: 'generate' as const } : {}
  return { task, ...scoring, ...tally.result() }
}
