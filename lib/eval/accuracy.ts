// Accuracy: multiple choice by the options' probabilities, or answers read off generated text.
import {
  type Dataset,
  encodeChoice,
  encodePrompt,
  goldOf,
  isCorrect,
  pickOption,
} from '../data/index.js'
import type { Model } from '../model/model.js'
import { LongRows } from './long-rows.js'
import { scoreOptions } from './score-options.js'
import type { AccuracyResult, EvalOptions } from './types.js'
import { accuracyOf, evaluateUnits, fileOrder, RunningAccuracy } from './units.js'

/**
 * Prompts in a unit of generation, in batches: slots are refilled within a unit only, so a unit
 * is long enough that its end, where few slots are busy, costs little.
 */
const BATCHES_IN_UNIT = 8

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
  const { rows } = dataset
  const long = new LongRows(model.config.maxPositionEmbeddings)
  const units = {
    order: fileOrder(rows.length),
    size: options.batchSize,
    running: new RunningAccuracy(),
    evaluate: async (indices: number[], finished: NonNullable<EvalOptions['onSample']>) => {
      const { template } = options
      const questions = indices.map((i) => encodeChoice(rows[i]!, tokenizer, { template }))
      const scores = await scoreOptions(model, questions)
      for (const [k, question] of questions.entries()) {
        const { prompt, labels, gold } = question
        const logProbs = scores[k]!
        const picked = pickOption(logProbs)
        const answer = labels[picked] ?? null
        const { source } = prompt
        long.add(source, Math.max(...question.options.map(({ tokens }) => tokens.length)))
        const correct = picked === gold
        finished({ index: indices[k]!, source, correct, answer, expected: labels[gold], logProbs })
      }
    },
  }
  const samples = await evaluateUnits(units, options)
  long.warn(options.onWarning)
  return { task: 'choice', scoring: 'logprob', ...accuracyOf(samples) }
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
  const long = new LongRows(model.config.maxPositionEmbeddings)
  const rows = dataset.rows.map((row) => {
    const { tokens, source } = encodePrompt(row, tokenizer, { template: options.template })
    long.add(source, tokens.length + options.maxNewTokens)
    return { tokens, source, gold: goldOf(row, task) }
  })
  long.warn(options.onWarning)
  const units = {
    order: fileOrder(rows.length),
    size: BATCHES_IN_UNIT * options.batchSize,
    running: new RunningAccuracy(),
    evaluate: async (indices: number[], finished: NonNullable<EvalOptions['onSample']>) => {
      const prompts = indices.map((i) => rows[i]!.tokens)
      await model.generateBatch(prompts, {
        slots: options.batchSize,
        maxNewTokens: options.maxNewTokens,
        ...(options.signal && { signal: options.signal }),
        onResult: (k, { text, finishReason }) => {
          if (finishReason === 'abort') return
          const index = indices[k]!
          const { source, gold } = rows[index]!
          const expected = gold.task === 'math' ? gold.value : gold.label
          const correct = isCorrect(text, gold)
          finished({ index, source, correct, expected, text, finishReason })
        },
      })
    },
  }
  const samples = await evaluateUnits(units, options)
  const scoring = task === 'choice' ? { scoring: 'generate' as const } : {}
  return { task, ...scoring, ...accuracyOf(samples) }
}
