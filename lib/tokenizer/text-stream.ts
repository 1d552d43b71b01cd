// Turns token ids that arrive one by one into text, holding back what may still change.

/** What a stream needs of a tokenizer. */
export interface IdDecoder {
  decode(ids: readonly number[], options?: { skipSpecialTokens?: boolean }): string
}

/**
 * Streaming detokenizer. `push` returns the text that became certain; a character whose bytes
 * are spread over tokens appears once it is whole. `flush` returns the rest.
 *
 * The text of a token can depend on its neighbours, so a window from the last settled point is
 * decoded with and without the new ids, and their difference is what is new.
 */
export class TextStream {
  private ids: number[] = []
  private settled = 0
  private settledText = ''

  constructor(
    private readonly tokenizer: IdDecoder,
    private readonly options: { skipSpecialTokens?: boolean } = { skipSpecialTokens: true },
  ) {}

  /** Takes the next id (or ids) and returns new text, often ''. */
  push(ids: number | readonly number[]): string {
    if (typeof ids === 'number') this.ids.push(ids)
    else this.ids.push(...ids)
    const text = this.tokenizer.decode(this.ids, this.options)
    if (text.length <= this.settledText.length || text.endsWith('\uFFFD')) return ''
    return this.settle(text)
  }

  /** Ends the stream: the held-back text, with U+FFFD for bytes that never became a character. */
  flush(): string {
    const text = this.tokenizer.decode(this.ids, this.options)
    const rest = text.slice(this.settledText.length)
    this.ids = []
    this.settled = 0
    this.settledText = ''
    return rest
  }

  private settle(text: string): string {
    const fresh = text.slice(this.settledText.length)
    this.ids = this.ids.slice(this.settled)
    this.settled = this.ids.length
    this.settledText = this.tokenizer.decode(this.ids, this.options)
    return fresh
  }
}
