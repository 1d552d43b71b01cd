// One linear layer with thousands of resident adapters, every row of a batch with one of its own.
import type { DType, NativeLayerTiming, NativeSwitchMethod } from '../native/binding.js'
import { inRounds } from './run.js'
import { lackOfMemory, roundRatios, runServeCase, type ServeSkipped, spread } from './serve-run.js'
import type { Ratio } from './summary.js'

export interface LayerOptions {
  /** Numbers of resident adapters. */
  adapters: readonly number[]
  layerWidth: number
  batch: number
  dtype: DType
  /** 0: all CPUs of this process. */
  threads: number
  arithmetic: 'auto' | 'native' | 'widen'
  /** LoRA's; S²FT takes twice as many rows or columns. */
  rank: number
  rounds: number
}

/** One method beside one layer. Seconds are of one batch. */
export interface LayerLine {
  type: 'serve-layer'
  adapters: number
  method: NativeSwitchMethod
  dtype: DType
  device: 'cpu'
  threads: number
  width: number
  batch: number
  /** Of one adapter. */
  parameters: number
  /** What all adapters added to the process. */
  residentBytes: number
  /** The layer's product and the adapters. */
  seconds: number
  secondsRange: [number, number]
  /** The adapters' part. */
  adapterSeconds: number
  adapterSecondsRange: [number, number]
  /** Relative to LoRA, round by round; null for LoRA itself. */
  time: Ratio | null
  adapterTime: Ratio | null
  memory: Ratio | null
  rounds: number
}

export const layerMethods = ['s2ft-cols', 's2ft-rows', 'lora'] as const

/** Batches that a round times, each with other adapters. */
const PASSES = 100

interface Case {
  adapters: number
  method: NativeSwitchMethod
}

/**
 * Every number of adapters, its methods in processes of their own that take turns; lines come when
 * a number is done. Throws as runChild.
 */
export async function* runLayer(
  options: LayerOptions,
  progress: (text: string) => void,
  signal?: AbortSignal,
): AsyncGenerator<LayerLine[] | ServeSkipped> {
  const { layerWidth: width, rank, dtype, batch, threads, arithmetic, rounds } = options
  const size = dtype === 'bf16' ? 2 : 4
  for (const adapters of options.adapters) {
    const what = `${adapters} adapters`
    // Beside its values an adapter has an index, alignment and what the allocator keeps.
    const lack = lackOfMemory('layer', what, adapters * (2 * rank * (width * size + 4) + 256))
    if (lack) {
      yield lack
      continue
    }
    const cases = layerMethods.map((method): Case => ({ adapters, method }))
    const results = await inRounds<Case, NativeLayerTiming>(
      cases,
      rounds,
      ({ method }) => {
        const k = method === 'lora' ? rank : 2 * rank
        const common = { width, dtype, threads, arithmetic, adapters, batch }
        const spec = { ...common, method, k, rounds: 1, passes: PASSES }
        return runServeCase(`layer, ${what}, ${method}`, { part: 'layer', spec }, signal)
      },
      ({ method }, round, { seconds }) => {
        const time = `${(1000 * seconds[0]!).toPrecision(3)} ms`
        progress(`round ${round + 1}/${rounds}  layer, ${what}, ${method}: ${time}`)
      },
    )
    yield layerLines(cases, results, options)
  }
}

/** The lines of one number of adapters, LoRA's last. */
export function layerLines(
  cases: readonly Case[],
  results: readonly (readonly NativeLayerTiming[])[],
  { dtype, threads, layerWidth, batch }: Omit<LayerOptions, 'adapters'>,
): LayerLine[] {
  const figures = results.map((rounds) => ({
    seconds: rounds.flatMap((r) => r.seconds),
    adapterSeconds: rounds.flatMap((r) => r.adapterSeconds),
    residentBytes: rounds.map((r) => r.residentBytes),
  }))
  const lora = figures[cases.findIndex(({ method }) => method === 'lora')]!
  return cases.map(({ adapters, method }, i) => {
    const own = figures[i]!
    const [seconds, part] = [spread(own.seconds), spread(own.adapterSeconds)]
    const against = (of: keyof typeof own) => (own === lora ? null : roundRatios(own[of], lora[of]))
    return {
      type: 'serve-layer',
      adapters,
      method,
      dtype,
      device: 'cpu',
      threads,
      width: layerWidth,
      batch,
      parameters: results[i]![0]!.parameters,
      residentBytes: spread(own.residentBytes).median,
      seconds: seconds.median,
      secondsRange: seconds.range,
      adapterSeconds: part.median,
      adapterSecondsRange: part.range,
      time: against('seconds'),
      adapterTime: against('adapterSeconds'),
      // A few adapters may fit into memory that the process had before.
      memory: lora.residentBytes.every((bytes) => bytes > 0) ? against('residentBytes') : null,
      rounds: results[i]!.length,
    }
  })
}
