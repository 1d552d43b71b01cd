// The server under load: many clients that stream at once, for a bounded time.
import type { LoadResult, LoadSpec } from './serve-load-case.js'
import { runServeCase } from './serve-run.js'

export interface LoadOptions extends Omit<LoadSpec, 'seconds' | 'adapters'> {
  minutes: number
  loadAdapters: number
}

export interface LoadLine extends LoadResult {
  type: 'serve-load'
  /** As it was given. */
  model: string
  dtype: string
  device: 'cpu'
  threads: number
  clients: number
  adapters: number
  tokensPerSecond: number
}

/** One run in processes of its own. Throws as runChild. */
export async function* runLoad(
  options: LoadOptions,
  progress: (text: string) => void,
  signal?: AbortSignal,
): AsyncGenerator<LoadLine[]> {
  const { model, dtype, threads, clients, minutes, loadAdapters: adapters } = options
  const { arithmetic, rank, scratch, promptTokens, newTokens } = options
  const common = { model, dtype, threads, arithmetic, rank, scratch, clients, adapters }
  const spec = { ...common, promptTokens, newTokens, seconds: 60 * minutes }
  progress(`load: ${clients} clients for ${minutes} minutes`)
  const result = await runServeCase<LoadResult>('load', { part: 'load', spec }, signal)
  if (result.firstError !== null) progress(`load: ${result.errors} failed: ${result.firstError}`)
  const tokensPerSecond = result.tokens / result.seconds
  const identity = { model, dtype, device: 'cpu' as const, threads, clients, adapters }
  yield [{ type: 'serve-load', ...identity, ...result, tokensPerSecond }]
}
