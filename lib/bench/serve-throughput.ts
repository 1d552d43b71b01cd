// Decoding throughput of a whole model: the base, one adapter fused, and many in flight.
import { weightBytes } from './random-model.js'
import { inRounds } from './run.js'
import { equalColumns } from './serve-adapters.js'
import { lackOfMemory, roundRatios, runServeCase, type ServeSkipped, spread } from './serve-run.js'
import type { ThroughputMethod, ThroughputResult, ThroughputSpec } from './serve-throughput-case.js'
import { linearShapes, type ShapeConfig } from './shapes.js'
import type { Ratio } from './summary.js'

export interface ThroughputOptions extends Omit<ThroughputSpec, 'model' | 'method' | 'inFlight'> {
  /** As it was given. */
  name: string
  directory: string
  shape: ShapeConfig
  /** Adapters, and sequences, at once. */
  inFlight: readonly number[]
  rounds: number
}

export interface ThroughputLine {
  type: 'serve-throughput'
  model: string
  method: ThroughputMethod
  inFlight: number
  dtype: string
  device: string
  threads: number
  /** Of one adapter; 0 for the base. */
  parameters: number
  tokensPerSecond: number
  tokensPerSecondRange: [number, number]
  peakBytes: number | null
  /** Of the base with as many sequences, round by round; null for the base itself. */
  ofBase: Ratio | null
  rounds: number
}

export const throughputMethods = ['base', 'fused', 's2ft', 'lora'] as const

interface Case {
  method: ThroughputMethod
  inFlight: number
}

/** Model, cache and adapters of a case. */
export function throughputBytes(options: ThroughputOptions, { method, inFlight }: Case): number {
  const { shape, dtype, rank, promptTokens, newTokens } = options
  const size = dtype === 'f32' ? 4 : 2
  const kv = 2 * shape.num_key_value_heads * shape.head_dim * (promptTokens + newTokens + 32)
  const adapter = Object.entries(linearShapes(shape))
    .filter(([name]) => name === 'o' || name === 'down')
    .reduce((sum, [, [input, out]]) => sum + equalColumns(out, input, rank) * out, 0)
  const own = method === 's2ft' || method === 'lora' ? inFlight : 0
  const each = shape.num_hidden_layers * size * (kv * inFlight + adapter * own)
  return weightBytes(shape, dtype) + each
}

/**
 * Every number of sequences, its methods in fresh processes that take turns; lines come when a
 * number is done. Throws as runChild.
 */
export async function* runThroughput(
  options: ThroughputOptions,
  progress: (text: string) => void,
  signal?: AbortSignal,
): AsyncGenerator<ThroughputLine[] | ServeSkipped> {
  const { dtype, device, arithmetic, threads, rank, promptTokens, newTokens, rounds } = options
  const common = { dtype, device, arithmetic, threads, rank, promptTokens, newTokens }
  for (const inFlight of options.inFlight) {
    const what = `${inFlight} in flight`
    const cases = throughputMethods.map((method): Case => ({ method, inFlight }))
    const most = Math.max(...cases.map((item) => throughputBytes(options, item)))
    const lack = lackOfMemory('throughput', what, most)
    if (lack) {
      yield lack
      continue
    }
    const results = await inRounds<Case, ThroughputResult>(
      cases,
      rounds,
      ({ method }) => {
        const spec = { ...common, model: options.directory, method, inFlight }
        const name = `throughput, ${what}, ${method}`
        return runServeCase(name, { part: 'throughput', spec }, signal)
      },
      ({ method }, round, { tokens, seconds }) => {
        const rate = `${(tokens / seconds).toFixed(1)} tokens/s`
        progress(`round ${round + 1}/${rounds}  throughput, ${what}, ${method}: ${rate}`)
      },
    )
    yield throughputLines(cases, results, options)
  }
}

/** The lines of one number of sequences; the base is the first case. */
export function throughputLines(
  cases: readonly Case[],
  results: readonly (readonly ThroughputResult[])[],
  { name, dtype }: Pick<ThroughputOptions, 'name' | 'dtype'>,
): ThroughputLine[] {
  const rates = results.map((rounds) => rounds.map((r) => r.tokens / r.seconds))
  return cases.map(({ method, inFlight }, i) => {
    const { median, range } = spread(rates[i]!)
    const peaks = results[i]!.map((r) => r.peakBytes)
    const first = results[i]![0]!
    return {
      type: 'serve-throughput',
      model: name,
      method,
      inFlight,
      dtype,
      device: first.device,
      threads: first.threads,
      parameters: first.parameters,
      tokensPerSecond: median,
      tokensPerSecondRange: range,
      peakBytes: peaks.includes(null) ? null : Math.max(...(peaks as number[])),
      ofBase: i === 0 ? null : roundRatios(rates[i]!, rates[0]!),
      rounds: results[i]!.length,
    }
  })
}
