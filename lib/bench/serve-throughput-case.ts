// Decodes many sequences at once, each with its own adapter, one fused into the model, or none, and
// times the tokens from the moment when all of them run.
import { Engine } from '../engine/engine.js'
import { tokenBytes } from '../engine/engine-options.js'
import { S2FTError } from '../errors.js'
import { Model } from '../model/model.js'
import { native } from '../native/load.js'
import { endTokens, randomAdapter, type ServedMethod } from './serve-adapters.js'

export type ThroughputMethod = 'base' | 'fused' | ServedMethod

export interface ThroughputSpec {
  model: string
  dtype: 'bf16' | 'f32'
  device: 'cpu' | 'cuda' | 'auto'
  arithmetic: 'auto' | 'native' | 'widen'
  threads: number
  method: ThroughputMethod
  /** Sequences decoded together, each with an adapter of its own where the method has them. */
  inFlight: number
  rank: number
  promptTokens: number
  newTokens: number
}

export interface ThroughputResult {
  /** Tokens after every sequence's first, until the first one ends. */
  tokens: number
  seconds: number
  /** Of one adapter; 0 for the base. */
  parameters: number
  peakBytes: number | null
  device: string
  threads: number
}

/** Random values are drawn for so many adapters; the engine holds a copy for every name. */
const DISTINCT = 4

/** Of prompts in one pass at most, beside what decodes: activations take memory. */
const PROMPT_TOKENS = 8192

export async function measureThroughput(spec: ThroughputSpec): Promise<ThroughputResult> {
  const { method, inFlight, rank } = spec
  const { dtype, device, arithmetic, threads } = spec
  await using model = await Model.load(spec.model, { dtype, device, arithmetic, threads })
  let parameters = 0
  if (method === 'fused') {
    const adapter = await randomAdapter(model, 's2ft', rank, 1)
    parameters = adapter.parameters
    await model.fuse(adapter)
  }
  await using engine = await makeEngine(model, spec)
  if (method === 's2ft' || method === 'lora') {
    const count = Math.min(inFlight, DISTINCT)
    const adapters = await Promise.all(
      Array.from({ length: count }, (_, i) => randomAdapter(model, method, rank, i + 1)),
    )
    parameters = adapters[0]!.parameters
    for (let i = 0; i < inFlight; i++) await engine.addAdapter(`a${i}`, adapters[i % count]!)
  }
  const requests = await makeRequests(model, spec)
  // Touches memory, and the adapters, for the first time.
  await decode(engine, requests, 2)
  native().resetPeakMemory()
  const timed = await decode(engine, requests, spec.newTokens)
  if (timed.tokens === 0) {
    throw new S2FTError('INTERNAL', 'no token was timed: a sequence ended before all had begun')
  }
  return {
    ...timed,
    parameters,
    peakBytes: native().peakMemory() || null,
    device: model.device,
    threads: model.threads,
  }
}

function makeEngine(model: Model, spec: ThroughputSpec): Promise<Engine> {
  const pages = Math.ceil((spec.promptTokens + spec.newTokens) / 16) + 1
  const most = spec.inFlight + PROMPT_TOKENS
  return Engine.create(model, {
    maxSequences: spec.inFlight,
    // All prompts in few passes: behind many sequences that decode, the last ones would wait for
    // the first to end.
    maxBatchTokens: Math.max(512, Math.min(spec.inFlight * spec.promptTokens, most)),
    cacheMemory: spec.inFlight * pages * 16 * tokenBytes(model.config, model.dtype),
    adapterMemory: Number.MAX_SAFE_INTEGER,
    prefixCache: false,
  })
}

interface Request {
  prompt: Int32Array
  adapter?: string
  logitBias: Record<number, number>
}

/** Prompts that differ; what would end a sequence is never sampled. */
async function makeRequests(model: Model, spec: ThroughputSpec): Promise<Request[]> {
  const { vocabSize } = model.config.native
  const logitBias = Object.fromEntries((await endTokens(model)).map((id) => [id, -1e9]))
  const own = spec.method === 's2ft' || spec.method === 'lora'
  return Array.from({ length: spec.inFlight }, (_, i) => ({
    prompt: Int32Array.from(
      { length: spec.promptTokens },
      (_, j) => (i * 7919 + j * 104729) % vocabSize,
    ),
    ...(own && { adapter: `a${i}` }),
    logitBias,
  }))
}

async function decode(
  engine: Engine,
  requests: readonly Request[],
  maxNewTokens: number,
): Promise<Pick<ThroughputResult, 'tokens' | 'seconds'>> {
  let begun = 0
  let ended = 0
  let tokens = 0
  let start = 0
  let seconds = 0
  await Promise.all(
    requests.map(async (request) => {
      let own = 0
      for await (const _ of engine.generate({ ...request, maxNewTokens })) {
        own++
        if (own === 1 && ++begun === requests.length) start = performance.now()
        else if (begun === requests.length && ended === 0) tokens++
      }
      if (own !== maxNewTokens) throw new Error(`expected ${maxNewTokens} tokens, found ${own}`)
      if (ended++ === 0) seconds = (performance.now() - start) / 1000
    }),
  )
  return { tokens, seconds }
}
