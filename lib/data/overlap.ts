// Which rows of one data set another one holds too, word for word or nearly: test questions in
// training data make a test worthless.
import type { Dataset } from './load.js'
import type { DataRow } from './rows.js'

/** Similarity from which two different texts count as near duplicates. */
export const NEAR = 0.7

/** Words in a shingle. */
const SHINGLE = 3

/** What the commonsense sets put around a question, and before its options. */
const FRAMES = [
  /^please (?:choose|answer)[^:]*:/i,
  /answer format:\s*\S+\s*$/i,
  /\b(?:answer|solution|ending|option)\d:/gi,
]

/** A row of the searched set with the most similar row of the other. */
export interface OverlapMatch {
  source: string
  other: string
  /** Jaccard similarity of their shingles; 1 also for shingles in another order. */
  similarity: number
  /** The same words in the same order. */
  exact: boolean
}

/** What is asked, without the answer. */
function questionText(row: DataRow): string {
  switch (row.kind) {
    case 'instruction':
      return `${row.instruction} ${row.input}`
    case 'question':
      return row.question
    case 'choice':
      return [row.question, ...row.choices].join(' ')
    case 'prompt':
      return row.prompt
    case 'text':
      return row.text
    case 'messages': {
      const asked = row.messages.filter(({ role }) => role === 'user')
      return asked.map(({ content }) => (typeof content === 'string' ? content : '')).join(' ')
    }
  }
}

/** Letters and digits of the question in lower case, a space between words. */
export function normalisedQuestion(row: DataRow): string {
  const bare = FRAMES.reduce((text, frame) => text.replace(frame, ' '), questionText(row).trim())
  const words = bare
    .normalize('NFKC')
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, ' ')
  return words.trim()
}

/** Every run of three words; a shorter text is one shingle. */
function shingles(text: string): Set<string> {
  const words = text.split(' ')
  if (words.length <= SHINGLE) return new Set([text])
  const starts = words.slice(0, words.length - SHINGLE + 1)
  return new Set(starts.map((_, i) => words.slice(i, i + SHINGLE).join(' ')))
}

/** A data set's questions, to be searched for others' often. */
export class QuestionIndex {
  private readonly sources: string[] = []
  private readonly sizes: number[] = []
  private readonly exact = new Map<string, number>()
  /** Rows that hold a shingle. */
  private readonly rows = new Map<string, number[]>()

  constructor({ rows }: Dataset) {
    for (const row of rows) {
      const text = normalisedQuestion(row)
      if (text === '') continue
      const at = this.sources.push(row.source) - 1
      if (!this.exact.has(text)) this.exact.set(text, at)
      const found = shingles(text)
      this.sizes.push(found.size)
      for (const shingle of found) {
        const holders = this.rows.get(shingle)
        if (holders) holders.push(at)
        else this.rows.set(shingle, [at])
      }
    }
  }

  /** The most similar row, when it is similar enough. */
  find(row: DataRow, threshold = NEAR): OverlapMatch | undefined {
    const text = normalisedQuestion(row)
    if (text === '') return undefined
    const same = this.exact.get(text)
    if (same !== undefined) {
      return { source: row.source, other: this.sources[same]!, similarity: 1, exact: true }
    }
    const own = shingles(text)
    const shared = new Map<number, number>()
    for (const shingle of own) {
      for (const at of this.rows.get(shingle) ?? []) shared.set(at, (shared.get(at) ?? 0) + 1)
    }
    let best: OverlapMatch | undefined
    for (const [at, count] of shared) {
      const similarity = count / (own.size + this.sizes[at]! - count)
      if (similarity < threshold || similarity <= (best?.similarity ?? 0)) continue
      best = { source: row.source, other: this.sources[at]!, similarity, exact: false }
    }
    return best
  }
}
