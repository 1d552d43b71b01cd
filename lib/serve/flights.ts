// Requests under way: each can be aborted by its client's going away, by time, and by the server's
// stop. Holds a timer and a listener for each until it ends.
import { setMaxListeners } from 'node:events'
import type { ServerResponse } from 'node:http'
import { HttpError, stopping } from './http-error.js'

/** Ends a request with what its client, if it is still there, is told. */
export interface Flight {
  readonly signal: AbortSignal
  readonly start: number
  end(): void
}

/** Nobody is told; making one for every request would cost a stack trace. */
const over = new HttpError(499, 'the request has ended')

export class Flights {
  private readonly open = new Set<AbortController>()
  private landed: (() => void) | undefined

  constructor(private readonly timeout: number) {}

  get count(): number {
    return this.open.size
  }

  /** `end` is called in any case: nothing runs on behind it. */
  begin(outgoing: ServerResponse): Flight {
    const controller = new AbortController()
    const { signal } = controller
    // Every choice listens to it.
    setMaxListeners(0, signal)
    const timer = setTimeout(() => {
      const message = `the request took longer than ${this.timeout} seconds`
      // Clients that try again would only take as long again.
      const headers = { 'x-should-retry': 'false' }
      controller.abort(new HttpError(504, message, { code: 'timeout', headers }))
    }, this.timeout * 1000)
    const onClose = () => controller.abort(new HttpError(499, 'the client went away'))
    outgoing.once('close', onClose)
    // Whoever went away while the body was read is not heard of again.
    if (outgoing.destroyed) onClose()
    this.open.add(controller)
    const end = () => {
      clearTimeout(timer)
      outgoing.off('close', onClose)
      controller.abort(over)
      this.open.delete(controller)
      if (this.open.size === 0) this.landed?.()
    }
    return { signal, start: performance.now(), end }
  }

  /** Resolves when none is under way, or after so many seconds. */
  async settled(seconds: number): Promise<void> {
    if (this.open.size === 0) return
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, seconds * 1000)
      this.landed = () => {
        clearTimeout(timer)
        resolve()
      }
    })
    this.landed = undefined
  }

  abortAll(): void {
    for (const controller of this.open) controller.abort(stopping())
  }
}
