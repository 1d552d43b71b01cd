// One row as token ids, and labels for what is learned of it.
import type { Tokenizer } from '../tokenizer/index.js'
import { renderRow, type TemplateName } from './prompts.js'
import type { DataRow } from './rows.js'
import { type ChatRenderer, renderTurns } from './turns.js'

/** Label of a token that is not learned. */
export const IGNORED = -100

/**
 * One training sequence. `labels[i]` is the label of token i itself, `tokens[i]` or -100; the
 * model predicts it from the tokens before, so `labels[0]` never counts.
 */
export interface EncodedSample {
  tokens: Int32Array
  labels: Int32Array
  /** `file:line`, or `file[index]` for an element of a JSON array. */
  source: string
}

export interface EncodeRowOptions {
  /** Default 'auto'. */
  template?: TemplateName
  /** Learn completions and assistant turns only (default), or every token. */
  completionOnly?: boolean
  /** Longest sequence in tokens; longer ones are cut at the end, text files are cut in blocks. */
  maxLength?: number
}

/** What encoding needs of a tokenizer. */
export type SampleTokenizer = ChatRenderer &
  Pick<
    Tokenizer,
    | 'encode'
    | 'decode'
    | 'isSpecial'
    | 'eosTokenId'
    | 'eosTokenIds'
    | 'hasChatTemplate'
    | 'directory'
  >

/** Block length of text files when no maxLength is given. */
export const DEFAULT_BLOCK = 1024

/** How many leading ids two sequences share. */
export function commonPrefix(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const limit = Math.min(a.length, b.length)
  let i = 0
  while (i < limit && a[i] === b[i]) i++
  return i
}

/** Number of tokens that can be learned: labels beyond the first token. */
export function trainedTokens(sample: Pick<EncodedSample, 'labels'>): number {
  let count = 0
  for (let i = 1; i < sample.labels.length; i++) if (sample.labels[i] !== IGNORED) count++
  return count
}

/** Encodes a prompt that is to be continued: without an end-of-sequence that is added behind. */
export function encodeOpen(tokenizer: SampleTokenizer, text: string): number[] {
  const ids = tokenizer.encode(text)
  const eos = tokenizer.eosTokenId
  if (eos !== undefined && ids.at(-1) === eos) {
    const bare = tokenizer.encode(text, { addSpecialTokens: false })
    if (ids.length > bare.length && bare.at(-1) !== eos) ids.pop()
  }
  return ids
}

function appendEnd(tokenizer: SampleTokenizer, ids: number[]): void {
  const eos = tokenizer.eosTokenId
  if (eos !== undefined && ids.at(-1) !== eos) ids.push(eos)
}

/** Whether a finished turn ends in a special token, white space behind it aside. */
function hasEnd(tokenizer: SampleTokenizer, ids: readonly number[], from: number): boolean {
  for (let i = ids.length - 1; i >= from; i--) {
    const id = ids[i]!
    if (tokenizer.isSpecial(id) || tokenizer.eosTokenIds.includes(id)) return true
    if (tokenizer.decode([id]).trim() !== '') return false
  }
  return false
}

interface Ranges {
  ids: number[]
  /** Learned ranges [start, end) of tokens. */
  learned: [number, number][]
}

function encodeChat(
  tokenizer: SampleTokenizer,
  row: Extract<ReturnType<typeof renderRow>, { form: 'chat' }>,
): Ranges {
  const { text, spans } = renderTurns(tokenizer, row.messages, row)
  const encode = (part: string) => tokenizer.encode(part, { addSpecialTokens: false })
  // The whole conversation is encoded at once, as at inference; a boundary lies where the
  // encoding of the text before it parts from that.
  const ids = encode(text)
  const learned = spans.map(([start, end]): [number, number] => [
    start === 0 ? 0 : commonPrefix(encode(text.slice(0, start)), ids),
    end === text.length ? ids.length : commonPrefix(encode(text.slice(0, end)), ids),
  ])
  const last = learned.at(-1)
  if (last && last[1] === ids.length && !hasEnd(tokenizer, ids, last[0])) {
    // A template without any end-of-turn token: the model would never learn to stop.
    appendEnd(tokenizer, ids)
    last[1] = ids.length
  }
  return { ids, learned }
}

function encodePlain(tokenizer: SampleTokenizer, prompt: string, completion: string): Ranges {
  const ids = tokenizer.encode(prompt + completion)
  const start = prompt === '' ? 0 : commonPrefix(encodeOpen(tokenizer, prompt), ids)
  appendEnd(tokenizer, ids)
  // An empty completion teaches nothing but to stop at once: it is a sample without a target.
  return { ids, learned: completion === '' ? [] : [[start, ids.length]] }
}

function toSample({ ids, learned }: Ranges, everything: boolean, source: string): EncodedSample {
  const tokens = Int32Array.from(ids)
  if (everything) return { tokens, labels: tokens.slice(), source }
  const labels = new Int32Array(tokens.length).fill(IGNORED)
  for (const [start, end] of learned) labels.set(tokens.subarray(start, end), start)
  return { tokens, labels, source }
}

function cutDocument(
  tokenizer: SampleTokenizer,
  text: string,
  size: number,
  source: string,
): EncodedSample[] {
  const ids = tokenizer.encode(text)
  appendEnd(tokenizer, ids)
  const file = source.replace(/:\d+$/, '')
  const samples: EncodedSample[] = []
  let line = 1
  for (let start = 0; start < ids.length; start += size) {
    const block = ids.slice(start, start + size)
    samples.push(toSample({ ids: block, learned: [] }, true, `${file}:${line}`))
    line += tokenizer.decode(block).split('\n').length - 1
  }
  return samples
}

/**
 * Encodes one row; a text file gives many samples. Nothing is cut to length but text files.
 * Throws INVALID_DATA or INVALID_ARGUMENT when the template cannot express the row.
 */
export function encodeRow(
  row: DataRow,
  tokenizer: SampleTokenizer,
  options: EncodeRowOptions = {},
): EncodedSample[] {
  const rendered = renderRow(row, options.template ?? 'auto', tokenizer)
  const everything = options.completionOnly === false
  switch (rendered.form) {
    case 'chat': {
      const target = rendered.messages.slice(rendered.trainFrom)
      const empty = !everything && row.kind !== 'messages' && target.at(-1)?.content === ''
      const ranges = encodeChat(tokenizer, rendered)
      return [toSample(empty ? { ids: ranges.ids, learned: [] } : ranges, everything, row.source)]
    }
    case 'plain': {
      const ranges = encodePlain(tokenizer, rendered.prompt, rendered.completion)
      return [toSample(ranges, everything, row.source)]
    }
    case 'text': {
      const size = options.maxLength ?? DEFAULT_BLOCK
      if (rendered.text.trim() === '') {
        return [toSample({ ids: [], learned: [] }, false, row.source)]
      }
      if (rendered.document) return cutDocument(tokenizer, rendered.text, size, row.source)
      const ids = tokenizer.encode(rendered.text)
      appendEnd(tokenizer, ids)
      return [toSample({ ids, learned: [] }, true, row.source)]
    }
  }
}
