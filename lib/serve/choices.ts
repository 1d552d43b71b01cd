// Runs a request's choices side by side through the engine and merges what they say.
import type { EngineEvent, EngineRequest, EngineResult } from '../engine/engine-types.js'
import type { Flight } from './flights.js'
import { HttpError } from './http-error.js'
import type { Service } from './service.js'

/** A token of the choice `index`, or its end. */
export type ChoiceEvent =
  | { index: number; event: EngineEvent; result?: undefined }
  | { index: number; result: EngineResult; event?: undefined }

/**
 * Yields what came since it was asked last, in order; never an empty list. When one choice fails
 * all do. Whoever leaves early must end the flight.
 */
export async function* runChoices(
  { engine, metrics }: Service,
  requests: readonly EngineRequest[],
  { signal, start }: Flight,
): AsyncGenerator<ChoiceEvent[], void> {
  const ready: ChoiceEvent[] = []
  let failure: { error: unknown } | undefined
  let open = requests.length
  let wake = () => {}
  const run = async (request: EngineRequest, index: number) => {
    let last = start
    let tokens = 0
    try {
      const events = engine.generate({ ...request, signal })
      for (;;) {
        const next = await events.next()
        const now = performance.now()
        if (next.done) {
          const result = next.value
          if (result.finishReason === 'abort') throw interrupted(signal)
          metrics.request.observe((now - start) / 1000)
          metrics.choices.inc({ finish_reason: result.finishReason })
          ready.push({ index, result })
          return
        }
        const histogram = tokens++ === 0 ? metrics.firstToken : metrics.token
        histogram.observe((now - last) / 1000)
        last = now
        ready.push({ index, event: next.value })
        wake()
      }
    } catch (error) {
      failure ??= { error: signal.aborted ? interrupted(signal) : error }
    } finally {
      open--
      wake()
    }
  }
  for (const [index, request] of requests.entries()) void run(request, index)
  for (;;) {
    if (failure) throw failure.error
    if (ready.length > 0) yield ready.splice(0)
    else if (open === 0) return
    else {
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
  }
}

function interrupted(signal: AbortSignal): unknown {
  if (signal.reason instanceof HttpError) return signal.reason
  return new HttpError(503, 'the engine ended the request', { code: 'cancelled' })
}
