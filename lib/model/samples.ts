// Checks tokens and samples before they cross to the engine.
import { S2FTError } from '../errors.js'
import type { SampleInput, SourcedSample, Tokens } from './types.js'
import { show } from './validate.js'

/** The label of a token that is not trained. */
export const IGNORE = -100

function bad(message: string, source?: string): never {
  throw new S2FTError('INVALID_ARGUMENT', source ? `${message} (${source})` : message)
}

/** `tokens` as Int32Array. Throws INVALID_ARGUMENT naming the position of an id out of range. */
export function checkTokens(tokens: Tokens, vocabSize: number, what = 'tokens'): Int32Array {
  if (!(tokens instanceof Int32Array) && !Array.isArray(tokens)) {
    bad(`${what}: expected an Int32Array or an array of numbers, found ${show(tokens)}`)
  }
  if (tokens.length === 0) bad(`${what}: expected at least one token, found none`)
  for (let i = 0; i < tokens.length; i++) {
    const id = tokens[i]!
    if (!Number.isInteger(id) || id < 0 || id >= vocabSize) {
      bad(`${what}[${i}]: expected a token id in [0, ${vocabSize}), found ${show(id)}`)
    }
  }
  return tokens instanceof Int32Array ? tokens : Int32Array.from(tokens)
}

/** Tokens that carry loss: labels[0] has no position before it that could predict it. */
export function trainedTokens(labels: Int32Array): number {
  let count = 0
  for (let i = 1; i < labels.length; i++) if (labels[i] !== IGNORE) count++
  return count
}

/** One checked sample; without labels every token is trained. */
export function checkSample(sample: SampleInput, vocabSize: number, what: string): SourcedSample {
  if (typeof sample !== 'object' || sample === null) {
    bad(`${what}: expected { tokens, labels }, found ${show(sample)}`)
  }
  const { source } = sample
  const where = source ? `${what} (${source})` : what
  const tokens = checkTokens(sample.tokens, vocabSize, `${where}.tokens`)
  const given = sample.labels ?? tokens
  if (!(given instanceof Int32Array) && !Array.isArray(given)) {
    bad(`${where}.labels: expected an Int32Array or an array of numbers, found ${show(given)}`)
  }
  if (given.length !== tokens.length) {
    bad(
      `${where}.labels: expected ${tokens.length} labels, as many as tokens, found ${given.length}`,
    )
  }
  for (let i = 0; i < given.length; i++) {
    const label = given[i]!
    if (!Number.isInteger(label) || (label !== IGNORE && (label < 0 || label >= vocabSize))) {
      bad(
        `${where}.labels[${i}]: expected ${IGNORE} or an id in [0, ${vocabSize}), found ${show(label)}`,
      )
    }
  }
  const labels = given instanceof Int32Array ? given : Int32Array.from(given)
  return source === undefined ? { tokens, labels } : { tokens, labels, source }
}

/** A checked, non-empty batch. */
export function checkBatch(
  samples: readonly SampleInput[],
  vocabSize: number,
  what = 'samples',
): SourcedSample[] {
  if (!Array.isArray(samples) || samples.length === 0) {
    bad(`${what}: expected a non-empty array of samples, found ${show(samples)}`)
  }
  return samples.map((sample, i) => checkSample(sample, vocabSize, `${what}[${i}]`))
}
