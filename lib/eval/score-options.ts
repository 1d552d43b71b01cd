// Log-probabilities of the options of multiple-choice questions.
import { type EncodedChoice, IGNORED } from '../data/index.js'
import type { Model } from '../model/model.js'
import type { SampleInput } from '../model/types.js'

/**
 * Options that differ in their last token alone, which letters and labels such as `answer1` do,
 * are one sequence: what they share is computed once.
 */
function sharedSequence({ options }: EncodedChoice) {
  const first = options[0]!
  const shared = first.tokens.length - 1
  const together = options.every(
    ({ tokens, labels }) =>
      tokens.length === shared + 1 &&
      labels[shared] !== IGNORED &&
      first.tokens.subarray(0, shared).every((token, i) => token === tokens[i]),
  )
  if (!together || shared === 0) return undefined
  return {
    sample: { tokens: first.tokens.subarray(0, shared), labels: first.labels.subarray(0, shared) },
    candidates: options.map(({ tokens }) => tokens[shared]!),
  }
}

/**
 * For each question, the summed log-probability of every option's scored tokens.
 * Throws NOT_FINITE for a model that answers with no numbers.
 */
export async function scoreOptions(
  model: Model,
  questions: readonly EncodedChoice[],
): Promise<number[][]> {
  const samples: SampleInput[] = []
  const candidates: number[][] = []
  const plans = questions.map((question) => {
    const shared = sharedSequence(question)
    if (shared) {
      samples.push(shared.sample)
      candidates.push(shared.candidates)
    } else {
      samples.push(...question.options)
      candidates.push(...question.options.map(() => []))
    }
    return { count: question.options.length, shared: shared !== undefined }
  })
  const rows = await model.scoreBatch(samples, candidates)
  const sum = (row: Float32Array) => row.reduce((total, value) => total + value, 0)
  let at = 0
  return plans.map(({ count, shared }) => {
    if (!shared) return rows.slice(at, (at += count)).map(sum)
    const row = rows[at++]!
    const before = sum(row.subarray(0, row.length - count))
    return Array.from(row.subarray(row.length - count), (value) => before + value)
  })
}
