// A server over the fake engine, and plain requests to it.
import { onTestFinished } from 'vitest'
import type { ServeOptions } from '../../lib/serve/options.js'
import { type RunningServer, startServer } from '../../lib/serve/server.js'
import type { ServedModel } from '../../lib/serve/service.js'
import { Tokenizer } from '../../lib/tokenizer/index.js'
import { tinyModel } from '../cli/support.js'
import { FakeEngine, type FakeOptions } from './fake-engine.js'

export interface Running {
  engine: FakeEngine
  server: RunningServer
  tokenizer: Tokenizer
  url: string
  /** Failures that the server told its owner of. */
  failures: unknown[]
}

/** Lives until the test, or the whole file, has ended. */
export async function startFake(
  options: ServeOptions & FakeOptions & { model?: Partial<ServedModel> } = {},
  atEnd: (stop: () => Promise<void>) => void = onTestFinished,
): Promise<Running> {
  const { maxSequences, maxQueue, delay, model, ...serve } = options
  const limits = { maxSequences, maxQueue, delay }
  const known = Object.entries(limits).filter(([, value]) => value !== undefined)
  const tokenizer = await Tokenizer.load(tinyModel)
  const engine = new FakeEngine(tokenizer, Object.fromEntries(known))
  const served = { name: 'tiny', tokenizer, contextLength: 256, vocabSize: 640, ...model }
  const failures: unknown[] = []
  const onError = (error: unknown) => failures.push(error)
  const server = await startServer(engine, served, { port: 0, onError, ...serve })
  atEnd(() => server.stop())
  return { engine, server, tokenizer, url: server.url, failures }
}

export interface Answer {
  status: number
  headers: Headers
  text: string
  // biome-ignore lint/suspicious/noExplicitAny: whatever JSON the server sent.
  json: any
}

export async function send(url: string, init: RequestInit = {}): Promise<Answer> {
  const response = await fetch(url, init)
  const text = await response.text()
  const isJson = response.headers.get('content-type')?.startsWith('application/json')
  const { status, headers } = response
  return { status, headers, text, json: isJson ? JSON.parse(text) : undefined }
}

export function post(url: string, body: unknown, headers: Record<string, string> = {}) {
  return send(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })
}

/** Waits until something holds; a test's own time limit ends it otherwise. */
export async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 2))
}
