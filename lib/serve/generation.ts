// One request to generate, from its checked fields to the end of its choices: what chat and text
// completions have in common.
import { randomUUID } from 'node:crypto'
import type { ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import type { EngineEvent, EngineRequest, EngineResult } from '../engine/engine-types.js'
import { S2FTError } from '../errors.js'
import { runChoices } from './choices.js'
import type { Flight } from './flights.js'
import { modelNotFound, stopping, toHttpError } from './http-error.js'
import type { CommonFields } from './request-fields.js'
import type { ServeContext, Service } from './service.js'

export interface Usage {
  prompt_tokens: number
  completion_tokens: number
  total_tokens: number
  prompt_tokens_details: { cached_tokens: number }
}

/** How a route writes one choice, whole or in parts. */
export interface ChoiceWriter {
  /** What comes before the first token in a stream. */
  open(): object | undefined
  /** A token's part of a stream; undefined where it has nothing to say. Kept for whole() otherwise. */
  token(event: EngineEvent, streaming: boolean): object | undefined
  /** The last part of a stream. */
  close(result: EngineResult): object
  whole(result: EngineResult): object
  /** Tokens generated for this choice. */
  readonly generated: number
}

export interface Generation {
  fields: CommonFields
  /** `id` and `object` of the answer, and `object` of a stream's parts. */
  names: { id: string; whole: string; part: string }
  requests: readonly EngineRequest[]
  /** Choices of each prompt. */
  n: number
  writers: readonly ChoiceWriter[]
}

export function newId(prefix: string): string {
  return `${prefix}-${randomUUID().replaceAll('-', '')}`
}

/** A prompt counts once, however many choices it has; the first of them tells what was cached. */
function usageOf({ n, writers }: Generation, results: readonly EngineResult[]): Usage {
  const firsts = results.filter((_, i) => i % n === 0)
  const sum = (values: number[]) => values.reduce((a, b) => a + b, 0)
  const prompt = sum(firsts.map(({ promptTokens }) => promptTokens))
  const completion = sum(writers.map(({ generated }) => generated))
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: sum(firsts.map(({ cachedTokens }) => cachedTokens)) },
  }
}

function finishReason({ finishReason }: EngineResult): { finish_reason: string } {
  return { finish_reason: finishReason }
}

/** An unknown adapter is the client's mistake; one that does not fit any more is not. */
function explain(error: unknown, { fields: { model } }: Generation, { engine }: Service): unknown {
  const mismatch = error instanceof S2FTError && error.code === 'ADAPTER_MISMATCH'
  const known = mismatch && engine.adapters().some(({ name }) => name === model)
  return mismatch && !known ? modelNotFound(model) : error
}

async function answer(
  service: Service,
  generation: Generation,
  flight: Flight,
): Promise<Record<string, unknown>> {
  const { fields, names, requests, writers } = generation
  const results: EngineResult[] = []
  for await (const batch of runChoices(service, requests, flight)) {
    for (const { index, event, result } of batch) {
      if (event) writers[index]!.token(event, false)
      else results[index] = result
    }
  }
  const choices = results.map((result, index) => ({
    index,
    ...writers[index]!.whole(result),
    ...finishReason(result),
  }))
  const { id, whole: object } = names
  const usage = usageOf(generation, results)
  return { id, object, created: seconds(), model: fields.model, choices, usage }
}

function seconds(): number {
  return Math.floor(Date.now() / 1000)
}

const frame = (value: object) => `data: ${JSON.stringify(value)}\n\n`

/** The parts of a stream, several together where they came together. */
async function* frames(
  service: Service,
  generation: Generation,
  flight: Flight,
): AsyncGenerator<string, void> {
  const { fields, names, requests, writers } = generation
  const head = { id: names.id, object: names.part, created: seconds(), model: fields.model }
  const tail = fields.stream_options?.include_usage ? { usage: null } : {}
  const part = (index: number, choice: object, end: object = { finish_reason: null }) =>
    frame({ ...head, choices: [{ index, ...choice, ...end }], ...tail })
  const results: EngineResult[] = []
  let text = ''
  let opened = false
  for await (const batch of runChoices(service, requests, flight)) {
    if (!opened) {
      opened = true
      for (const [index, writer] of writers.entries()) {
        const choice = writer.open()
        if (choice) text += part(index, choice)
      }
    }
    for (const { index, event, result } of batch) {
      const writer = writers[index]!
      if (event) {
        const choice = writer.token(event, true)
        if (choice) text += part(index, choice)
      } else {
        results[index] = result
        text += part(index, writer.close(result), finishReason(result))
      }
    }
    if (text !== '') yield text
    text = ''
  }
  if (fields.stream_options?.include_usage) {
    yield frame({ ...head, choices: [], usage: usageOf(generation, results) })
  }
}

/** The rest of a stream that has begun: an error can only be told as a part of its own. */
async function* stream(
  first: IteratorResult<string, void>,
  rest: AsyncGenerator<string, void>,
  service: Service,
  flight: Flight,
  outgoing: ServerResponse,
): AsyncGenerator<string, void> {
  try {
    if (!first.done) yield first.value
    yield* rest
  } catch (error) {
    // Nobody is there to be told.
    if (outgoing.destroyed) return
    const told = toHttpError(error)
    if (told.status === 500) service.settings.onError?.(error)
    yield frame(told.body())
  } finally {
    flight.end()
  }
  yield 'data: [DONE]\n\n'
}

/** Plans a request, runs its choices and answers it, whole or as server-sent events. */
export async function respond(
  c: ServeContext,
  service: Service,
  plan: () => Promise<Generation>,
): Promise<Response> {
  const { outgoing } = c.env
  const flight = service.flights.begin(outgoing)
  let generation: Generation | undefined
  try {
    generation = await plan()
    // The body may have come after the server was told to stop.
    if (service.stopping) throw stopping()
    if (!generation.fields.stream) {
      const whole = await answer(service, generation, flight)
      flight.end()
      return c.json(whole)
    }
    const rest = frames(service, generation, flight)
    // Errors before the first token still get a status of their own.
    const first = await rest.next()
    outgoing.writeHead(200, {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache',
      // Proxies such as nginx would gather the parts.
      'x-accel-buffering': 'no',
    })
    // Straight to the socket: a web stream between costs twice the time for every token. A client
    // that goes away ends the flight by itself.
    const parts = Readable.from(stream(first, rest, service, flight, outgoing))
    pipeline(parts, outgoing).catch(() => flight.end())
    return RESPONSE_ALREADY_SENT
  } catch (error) {
    flight.end()
    throw generation ? explain(error, generation, service) : error
  }
}
