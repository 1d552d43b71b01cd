// Ends a stream of text at the first stop text, holding back what may be the start of one.

export class StopText {
  private held = ''

  constructor(private readonly stops: readonly string[]) {}

  /** New text that is certain not to belong to a stop text; `stopped` once one was found. */
  push(text: string): { text: string; stopped: boolean } {
    if (this.stops.length === 0) return { text, stopped: false }
    const whole = this.held + text
    let first = -1
    for (const stop of this.stops) {
      const at = whole.indexOf(stop)
      if (at >= 0 && (first < 0 || at < first)) first = at
    }
    if (first >= 0) {
      this.held = ''
      return { text: whole.slice(0, first), stopped: true }
    }
    const keep = Math.max(...this.stops.map((stop) => overlap(whole, stop)))
    this.held = whole.slice(whole.length - keep)
    return { text: whole.slice(0, whole.length - keep), stopped: false }
  }

  /** What was held back, at the end of the stream. */
  flush(): string {
    const rest = this.held
    this.held = ''
    return rest
  }
}

/** Length of the longest end of `text` that begins `stop`. */
function overlap(text: string, stop: string): number {
  for (let length = Math.min(text.length, stop.length - 1); length > 0; length--) {
    if (text.endsWith(stop.slice(0, length))) return length
  }
  return 0
}
