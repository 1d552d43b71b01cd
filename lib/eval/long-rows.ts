// Rows that do not fit into the model's positions: scored all the same, and told of once.

export class LongRows {
  private readonly sources: string[] = []

  constructor(private readonly limit: number) {}

  /** `length` in tokens, what is to be generated included. */
  add(source: string, length: number): void {
    if (length > this.limit) this.sources.push(source)
  }

  /** Calls `onWarning` where there were any. */
  warn(onWarning: ((warning: string) => void) | undefined): void {
    if (this.sources.length === 0) return
    const count = `${this.sources.length} ${this.sources.length === 1 ? 'prompt is' : 'prompts are'}`
    onWarning?.(`${count} longer than ${this.limit} tokens, the first is ${this.sources[0]}`)
  }
}
