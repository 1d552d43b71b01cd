// One sequence on its way through the scheduler: what is in the cache, what is to come.
import type { GenerateEvent } from '../model/types.js'
import type {
  NativeDecodedRow,
  NativeDecodeRow,
  NativeTokenProbability,
} from '../native/decoder-binding.js'
import type { Paged, PageKey } from './pages.js'
import type { Sequence } from './sequence.js'

/** An adapter that a job runs with. */
export interface JobAdapter {
  /** The decoder's name of it, once it is loaded. */
  readonly id: number
}

/** full: there is no room for it while others run. */
export type AdapterState = 'ready' | 'loading' | 'full'

export interface JobEvent extends GenerateEvent {
  top: readonly NativeTokenProbability[]
}

export interface JobOptions {
  sequence: Sequence
  adapter?: JobAdapter | undefined
  /** Log-probabilities of the prompt's tokens are wanted; nothing of it is taken from the cache. */
  promptLogprobs?: boolean
  onToken(event: JobEvent): void
  /** Once, at the end; `error` where it did not end well. */
  onEnd(error?: unknown): void
}

export class Job implements Paged {
  /** The prompt and what was generated. */
  readonly tokens: number[]
  /** How many of them are in the cache. */
  past = 0
  pages: number[] = []
  /** Of the pages that are full, and how many of them others can find. */
  keys: PageKey[] = []
  published = 0
  /** The decoder's name of the sequence while it is open. */
  id: number | undefined
  /** Prompt tokens that were found in the cache when it first ran. */
  cachedTokens: number | undefined
  /** It ends before the next pass. */
  aborted = false
  readonly promptLogProbs: Float32Array | undefined

  constructor(readonly options: JobOptions) {
    const { prompt } = options.sequence
    this.tokens = [...prompt]
    if (!options.promptLogprobs) return
    this.promptLogProbs = new Float32Array(prompt.length)
    this.promptLogProbs[0] = Number.NaN
  }

  get pending(): number {
    return this.tokens.length - this.past
  }

  /** Whose keys and values its pages hold. */
  get owner(): string {
    return this.options.adapter === undefined ? 'base' : `adapter ${this.options.adapter.id}`
  }

  /** The next `count` tokens of a pass; the last pending one asks for another. */
  row(count: number, pages: readonly number[]): NativeDecodeRow {
    const { tokens, past, promptLogProbs } = this
    const end = past + count
    const sample = end === tokens.length
    const row: NativeDecodeRow = {
      sequence: this.id!,
      tokens: Int32Array.from(tokens.slice(past, end)),
      pages: Int32Array.from(pages),
      sample,
      random: sample ? this.options.sequence.draw() : 0,
    }
    if (promptLogProbs && past < promptLogProbs.length) {
      // The token after the last one is sampled, not given: any target does, nobody looks at it.
      row.targets = Int32Array.from({ length: count }, (_, i) => tokens[past + i + 1] ?? 0)
    }
    return row
  }

  /** What a pass did of row(). */
  advance(row: NativeDecodeRow, result: NativeDecodedRow): void {
    if (row.targets && this.promptLogProbs) {
      const fits = this.promptLogProbs.length - this.past - 1
      this.promptLogProbs.set(result.targetLogProbs.subarray(0, fits), this.past + 1)
    }
    this.past += row.tokens.length
  }

  /** Takes the sampled token and tells of it. */
  accept(sampled: NativeDecodedRow): void {
    const event = this.options.sequence.accept(sampled)
    this.tokens.push(sampled.token)
    this.options.onToken({ ...event, top: sampled.top })
  }
}
