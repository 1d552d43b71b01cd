// Scores a model on the study's test sets, item by item, so that methods can be compared in pairs.
import {
  type EncodedChoice,
  type EncodedSample,
  isCorrect,
  pickOption,
  trainedTokens,
} from '../data/index.js'
import { S2FTError } from '../errors.js'
import { scoreOptions } from '../eval/score-options.js'
import type { Model } from '../model/model.js'
import type { AnswerItem, TestItems } from './data.js'
import type { StudySettings } from './settings.js'
import type { Quantity } from './tracks.js'

/** One value an item. */
export type SetScores = Partial<Record<Quantity, number[]>>
/** By the name of the set. */
export type Scores = Record<string, SetScores>

/** Samples scored at once. */
const BATCH = 16

function requireGoing(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new S2FTError('CANCELLED', 'the study was stopped')
}

/** Six digits are more than any table shows. */
function rounded(value: number): number {
  return Number(value.toPrecision(6))
}

/** Mean negative log-likelihood of each sample's learned tokens. */
export async function scoreLoss(
  model: Model,
  samples: readonly EncodedSample[],
  signal?: AbortSignal,
): Promise<number[]> {
  // Neighbours of like length make batches of like cost; a sample's score does not depend on them.
  const order = samples.map((_, i) => i)
  order.sort((a, b) => samples[b]!.tokens.length - samples[a]!.tokens.length)
  const losses = new Array<number>(samples.length)
  for (let start = 0; start < order.length; start += BATCH) {
    requireGoing(signal)
    const batch = order.slice(start, start + BATCH)
    const rows = await model.scoreBatch(batch.map((i) => samples[i]!))
    for (const [k, i] of batch.entries()) {
      const sum = rows[k]!.reduce((total, value) => total - value, 0)
      losses[i] = rounded(sum / trainedTokens(samples[i]!))
    }
  }
  return losses
}

/** Whether the likeliest option is right, and -log of the right one's share of the options. */
export async function scoreChoice(
  model: Model,
  items: readonly EncodedChoice[],
  signal?: AbortSignal,
): Promise<{ chosen: number[]; choiceLoss: number[] }> {
  const chosen: number[] = []
  const choiceLoss: number[] = []
  for (let start = 0; start < items.length; start += BATCH) {
    requireGoing(signal)
    const questions = items.slice(start, start + BATCH)
    for (const [k, scores] of (await scoreOptions(model, questions)).entries()) {
      const { gold } = questions[k]!
      const best = Math.max(...scores)
      const sum = scores.reduce((total, score) => total + Math.exp(score - best), 0)
      chosen.push(pickOption(scores) === gold ? 1 : 0)
      choiceLoss.push(rounded(best + Math.log(sum) - scores[gold]!))
    }
  }
  return { chosen, choiceLoss }
}

/** Whether each generated answer is right. */
async function scoreAnswers(
  model: Model,
  items: readonly AnswerItem[],
  { slots, maxNewTokens }: StudySettings,
  signal?: AbortSignal,
): Promise<number[]> {
  const results = await model.generateBatch(
    items.map(({ tokens }) => tokens),
    { slots, maxNewTokens, temperature: 0, ...(signal && { signal }) },
  )
  requireGoing(signal)
  return results.map(({ text }, i) => (isCorrect(text, items[i]!.gold) ? 1 : 0))
}

export interface ScoreOptions {
  /** Also what needs generation. */
  generate: boolean
  signal?: AbortSignal | undefined
}

/** Scores the named sets. Throws CANCELLED, NOT_FINITE when the model answers with no numbers. */
export async function scoreSets(
  model: Model,
  tests: ReadonlyMap<string, TestItems>,
  names: readonly string[],
  settings: StudySettings,
  { generate, signal }: ScoreOptions,
): Promise<Scores> {
  const scores: Scores = {}
  // All sets' questions are answered together, so that slots stay filled.
  const asked: { name: string; items: readonly AnswerItem[] }[] = []
  for (const name of names) {
    const { loss, choice, answer } = tests.get(name)!
    const found: SetScores = {}
    if (loss) found.loss = await scoreLoss(model, loss, signal)
    if (choice) Object.assign(found, await scoreChoice(model, choice, signal))
    scores[name] = found
    if (answer && generate) asked.push({ name, items: answer })
  }
  const questions = asked.flatMap(({ items }) => items)
  if (questions.length > 0) {
    const right = await scoreAnswers(model, questions, settings, signal)
    let at = 0
    for (const { name, items } of asked) {
      scores[name]!.answered = right.slice(at, (at += items.length))
    }
  }
  return scores
}
