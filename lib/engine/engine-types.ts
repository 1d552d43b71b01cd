// What users of an Engine pass to it and get back: requests that share one model, each with an
// adapter of its own.
import type { FinishReason, Prompt } from '../model/types.js'

export interface EngineOptions {
  /** Sequences decoded at once; default 64. Others wait in the queue. */
  maxSequences?: number
  /** Tokens of one pass over the model, pieces of prompts included; default 512. */
  maxBatchTokens?: number
  /** Requests that may wait; one more is refused with OVERLOADED. Default 1024. */
  maxQueue?: number
  /** Memory of the paged keys and values: bytes or '2GB'. Default: a quarter of what is free. */
  cacheMemory?: number | string
  /** Tokens of a page of the cache; default 16. */
  pageTokens?: number
  /**
   * Memory of the adapters that are ready for use: bytes or '512MB' (default '1GB'). Others that
   * were added wait on disk and take the place of those used longest ago.
   */
  adapterMemory?: number | string
  /** Reuse the cached keys and values of equal beginnings of prompts; default true. */
  prefixCache?: boolean
}

export interface EngineRequest {
  prompt: Prompt
  /** Name of an added adapter; absent: the model as it is. */
  adapter?: string
  /** Default: what the context leaves, at most 256. */
  maxNewTokens?: number
  /** 0 (default) is greedy. */
  temperature?: number
  /** 0 (default): no limit. */
  topK?: number
  /** Default 1. */
  topP?: number
  /** Default 0. */
  minP?: number
  /** Default 1. */
  repetitionPenalty?: number
  /** OpenAI's penalties, subtracted from the logits of generated tokens; default 0. */
  frequencyPenalty?: number
  presencePenalty?: number
  /** Added to the logits of these tokens. */
  logitBias?: Readonly<Record<number, number>>
  /** The same seed gives the same text, whatever else runs beside. Default: drawn. */
  seed?: number
  stop?: string | readonly string[]
  stopTokenIds?: readonly number[]
  /** The likeliest tokens reported beside each generated one; default 0, at most 20. */
  topLogprobs?: number
  /** Log-probabilities of the prompt's own tokens in the result. */
  promptLogprobs?: boolean
  /** Ends the request and frees its pages at once. */
  signal?: AbortSignal
}

export interface TokenProbability {
  token: number
  /** Natural log of the model's own probability, before penalties and temperature. */
  logProb: number
}

/** One generated token; the last one may be the end-of-sequence token. */
export interface EngineEvent extends TokenProbability {
  /** What became readable with the token; may be empty. */
  text: string
  top: readonly TokenProbability[]
}

export interface EngineResult {
  text: string
  /** Without the end-of-sequence token. */
  tokens: Int32Array
  finishReason: FinishReason
  promptTokens: number
  /** Of these, how many were found in the cache. */
  cachedTokens: number
  /** With `promptLogprobs`: [promptTokens], the first one NaN. */
  promptLogProbs?: Float32Array
}

export interface EngineAdapter {
  name: string
  /** Where it was loaded from; undefined for one given as an object. */
  directory: string | undefined
  kind: string
  bytes: number
  /** Held in memory, ready for use. */
  resident: boolean
}

export interface EngineStats {
  running: number
  waiting: number
  pages: { total: number; used: number; cached: number }
  adapters: { known: number; resident: number; bytes: number; loads: number; evictions: number }
  totals: {
    requests: number
    promptTokens: number
    cachedTokens: number
    generatedTokens: number
    aborted: number
    /** Times that a sequence gave its pages to one that began before it. */
    preempted: number
    passes: number
  }
}

/** The engine's public face (class Engine in lib/engine/engine.ts). */
export interface EngineLike {
  /**
   * Yields each token as it is sampled and returns the result. Throws INVALID_ARGUMENT for a bad
   * request, ADAPTER_MISMATCH for an unknown adapter, OVERLOADED for a full queue.
   */
  generate(request: EngineRequest): AsyncGenerator<EngineEvent, EngineResult>
  /** Adds an adapter while requests run. A directory is loaded when first used and checked now. */
  addAdapter(name: string, source: string | object): Promise<void>
  /** Requests that use it go on; new ones are refused. */
  removeAdapter(name: string): Promise<void>
  adapters(): readonly EngineAdapter[]
  stats(): EngineStats
  /** Waits for work in flight after ending every request. */
  dispose(): Promise<void>
}
