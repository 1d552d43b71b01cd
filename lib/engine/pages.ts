// The pages of the key/value cache: who holds them, and which hold the beginning of a prompt that
// another one shares.
import { createHash } from 'node:crypto'

/** Names what a full page holds: all tokens up to its end, and whose keys and values they are. */
export type PageKey = string

/** A sequence whose keys and values lie in pages. */
export interface Paged {
  /** Whose weights made them. */
  readonly owner: string
  readonly tokens: readonly number[]
  /** Tokens in the cache. */
  past: number
  pages: number[]
  /** Of the pages that are full, and how many of them others can find. */
  keys: PageKey[]
  published: number
}

/** Keys of the full pages of a token sequence; equal keys are equal contents. */
function pageKeys(
  owner: string,
  tokens: ArrayLike<number>,
  pageTokens: number,
  from: readonly PageKey[] = [],
): PageKey[] {
  const keys = [...from]
  for (let page = keys.length; (page + 1) * pageTokens <= tokens.length; page++) {
    const part = Int32Array.from({ length: pageTokens }, (_, i) => tokens[page * pageTokens + i]!)
    const hash = createHash('sha256').update(keys.at(-1) ?? owner)
    keys.push(hash.update(part).digest('base64'))
  }
  return keys
}

export class PagePool {
  private readonly free: number[] = []
  private readonly holders: Int32Array
  private readonly keys: (PageKey | undefined)[]
  private readonly byKey = new Map<PageKey, number>()
  /** Pages without a holder whose content may be of use again, from the longest unused. */
  private readonly idle = new Set<number>()

  constructor(
    readonly count: number,
    private readonly pageTokens: number,
  ) {
    for (let page = count - 1; page >= 0; page--) this.free.push(page)
    this.holders = new Int32Array(count)
    this.keys = new Array(count)
  }

  /** Pages that can be taken. */
  get available(): number {
    return this.free.length + this.idle.size
  }

  get cached(): number {
    return this.idle.size
  }

  get used(): number {
    return this.count - this.available
  }

  pagesFor(tokens: number): number {
    return Math.ceil(tokens / this.pageTokens)
  }

  /** Begins a sequence, with `reuse` on the pages of one that began alike. */
  begin(sequence: Paged, reuse: boolean): void {
    const { owner, tokens } = sequence
    // The last token is computed in any case: its logits are wanted.
    const whole = Math.floor((tokens.length - 1) / this.pageTokens)
    sequence.keys = reuse ? pageKeys(owner, tokens, this.pageTokens) : []
    sequence.pages = this.find(sequence.keys.slice(0, whole))
    sequence.past = sequence.pages.length * this.pageTokens
    sequence.published = sequence.pages.length
  }

  /** Makes a sequence's full pages known to others that begin alike. */
  publish(sequence: Paged): void {
    const full = Math.floor(sequence.past / this.pageTokens)
    if (sequence.keys.length < full) {
      const tokens = sequence.tokens.slice(0, sequence.past)
      sequence.keys = pageKeys(sequence.owner, tokens, this.pageTokens, sequence.keys)
    }
    for (; sequence.published < full; sequence.published++) {
      this.name(sequence.pages[sequence.published]!, sequence.keys[sequence.published]!)
    }
  }

  /** Fresh pages, each with one holder; undefined where there are too few. */
  take(count: number): number[] | undefined {
    if (count > this.available) return undefined
    return Array.from({ length: count }, () => {
      const page = this.free.pop() ?? this.forgetOldest()
      this.holders[page] = 1
      return page
    })
  }

  /** The longest run of these keys' pages from the first on, each with one holder more. */
  private find(keys: readonly PageKey[]): number[] {
    const found: number[] = []
    for (const key of keys) {
      const page = this.byKey.get(key)
      if (page === undefined) break
      this.holders[page]! += 1
      this.idle.delete(page)
      found.push(page)
    }
    return found
  }

  /** Tells what a full page holds. Where another page holds the same, that one stays known. */
  private name(page: number, key: PageKey): void {
    if (this.byKey.has(key) || this.keys[page] !== undefined) return
    this.byKey.set(key, page)
    this.keys[page] = key
  }

  /** Takes one holder off each page. */
  release(pages: readonly number[]): void {
    // A sequence's last pages are of use to fewer others: they are forgotten first.
    for (const page of [...pages].reverse()) {
      this.holders[page]! -= 1
      if (this.holders[page]! > 0) continue
      if (this.keys[page] === undefined) this.free.push(page)
      else this.idle.add(page)
    }
  }

  private forgetOldest(): number {
    const [page] = this.idle
    this.idle.delete(page!)
    this.byKey.delete(this.keys[page!]!)
    this.keys[page!] = undefined
    return page!
  }
}
