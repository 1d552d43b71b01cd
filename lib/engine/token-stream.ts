// The generator that a request's tokens arrive through. Unlike an async function's, it can be
// ended while a token is awaited.
import type { EngineEvent, EngineResult } from './engine-types.js'

type Step = IteratorResult<EngineEvent, EngineResult>
type Outcome = { result: EngineResult } | { error: unknown }

export interface RunningRequest {
  /** Resolves when the request holds nothing any more. */
  readonly ended: Promise<void>
  abort(): void
}

interface Reader {
  resolve(step: Step): void
  reject(error: unknown): void
}

const NOTHING: Step = { done: true, value: undefined as never }

export class TokenStream implements AsyncGenerator<EngineEvent, EngineResult> {
  private readonly events: EngineEvent[] = []
  private readonly readers: Reader[] = []
  private request: Promise<RunningRequest> | undefined
  /** Whoever read it to its end, or ended it, has learnt everything. */
  private closed = false
  private outcome: Outcome | undefined

  /** `start` is called when the first token is asked for; what it throws is what the reader gets. */
  constructor(private readonly start: (stream: TokenStream) => Promise<RunningRequest>) {}

  push(event: EngineEvent): void {
    const reader = this.readers.shift()
    if (reader) reader.resolve({ done: false, value: event })
    else this.events.push(event)
  }

  end(outcome: Outcome): void {
    this.outcome ??= outcome
    for (const reader of this.readers.splice(0)) this.settle(reader)
  }

  next(): Promise<Step> {
    if (!this.request && !this.closed) {
      this.request = this.start(this)
      this.request.catch((error: unknown) => this.end({ error }))
    }
    return new Promise((resolve, reject) => {
      const event = this.closed ? undefined : this.events.shift()
      if (event) resolve({ done: false, value: event })
      else if (this.closed || this.outcome) this.settle({ resolve, reject })
      else this.readers.push({ resolve, reject })
    })
  }

  /** Ends the request; resolves when its pages are free. */
  async return(value: EngineResult | PromiseLike<EngineResult>): Promise<Step> {
    await this.close()
    return { done: true, value: await value }
  }

  async throw(error: unknown): Promise<Step> {
    await this.close()
    throw error
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  private async close(): Promise<void> {
    this.closed = true
    for (const reader of this.readers.splice(0)) reader.resolve(NOTHING)
    const request = await this.request?.catch(() => undefined)
    request?.abort()
    await request?.ended
  }

  /** The first reader behind the last token learns how it ended. */
  private settle(reader: Reader): void {
    const outcome = this.closed ? undefined : this.outcome
    this.closed = true
    if (!outcome) reader.resolve(NOTHING)
    else if ('error' in outcome) reader.reject(outcome.error)
    else reader.resolve({ done: true, value: outcome.result })
  }
}
