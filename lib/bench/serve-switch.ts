// Switching the fused adapter of square weights: S²FT's slices against LoRA's merge of equal size.
import type { DType, NativeSwitchMethod, NativeSwitchTiming } from '../native/binding.js'
import { ratioText } from './ratios.js'
import { lackOfMemory, roundRatios, runServeCase, type ServeSkipped, spread } from './serve-run.js'
import type { Ratio } from './summary.js'

export interface SwitchOptions {
  widths: readonly number[]
  dtype: DType
  /** 0: all CPUs of this process. */
  threads: number
  arithmetic: 'auto' | 'native' | 'widen'
  /** LoRA's; S²FT trains twice as many rows or columns, which are as many parameters. */
  rank: number
  rounds: number
}

/** One method at one width. Seconds are of one weight. */
export interface SwitchLine {
  type: 'serve-switch'
  width: number
  method: NativeSwitchMethod
  dtype: DType
  device: 'cpu'
  threads: number
  /** Of the adapter, for one weight. */
  parameters: number
  /** Weights that were switched one after another. */
  weights: number
  weightBytes: number
  /** Kept of the base while an adapter is in. */
  keptBytes: number
  fuseSeconds: number
  /** One adapter out, another in. */
  switchSeconds: number
  switchSecondsRange: [number, number]
  unfuseSeconds: number
  /** How many times as long LoRA's switch took; null for LoRA itself. */
  loraRatio: Ratio | null
  rounds: number
}

export const switchMethods = ['s2ft-rows', 's2ft-cols', 'lora'] as const

/** Weights of so many bytes pass the caches by. */
const UNCACHED_BYTES = 256 * 2 ** 20

/** Equal weights that are switched in turn, and what they and their adapters hold. */
export function switchSizes(width: number, dtype: DType, rank: number) {
  const weightBytes = width * width * (dtype === 'bf16' ? 2 : 4)
  const weights = Math.max(1, Math.ceil(UNCACHED_BYTES / weightBytes))
  const adapterBytes = 2 * rank * width * 4
  // Two adapters of each method a weight; LoRA keeps the base.
  const neededBytes = weights * (2 * weightBytes + 2 * switchMethods.length * adapterBytes)
  return { weightBytes, weights, neededBytes }
}

/** Every width in a process of its own; lines come as they are measured. Throws as runChild. */
export async function* runSwitch(
  options: SwitchOptions,
  progress: (text: string) => void,
  signal?: AbortSignal,
): AsyncGenerator<SwitchLine[] | ServeSkipped> {
  const { dtype, threads, arithmetic, rank, rounds } = options
  for (const width of options.widths) {
    const sizes = switchSizes(width, dtype, rank)
    const what = `width ${width}`
    const lack = lackOfMemory('switch', what, sizes.neededBytes)
    if (lack) {
      yield lack
      continue
    }
    const { weights } = sizes
    const methods = [...switchMethods]
    const spec = { width, dtype, threads, arithmetic, weights, methods, rank, rounds }
    const timings = await runServeCase<NativeSwitchTiming[]>(
      `switch, ${what}`,
      { part: 'switch', spec: { ...spec, channels: 2 * rank } },
      signal,
    )
    const lines = switchLines(timings, { ...options, width, ...sizes })
    const ratios = lines.flatMap(({ method, loraRatio }) =>
      loraRatio ? [`${method} by ${ratioText(loraRatio)}`] : [],
    )
    progress(`switch, ${what}: faster than LoRA: ${ratios.join(', ')}`)
    yield lines
  }
}

/** The lines of one width. */
export function switchLines(
  timings: readonly NativeSwitchTiming[],
  sizes: Pick<SwitchOptions, 'dtype' | 'threads'> &
    Pick<SwitchLine, 'width' | 'weights' | 'weightBytes'>,
): SwitchLine[] {
  const { width, weights, weightBytes, dtype, threads } = sizes
  const lora = timings.find(({ method }) => method === 'lora')!
  return timings.map((timing) => {
    const { median, range } = spread(timing.switch)
    return {
      type: 'serve-switch',
      width,
      method: timing.method,
      dtype,
      device: 'cpu',
      threads,
      parameters: timing.parameters,
      weights,
      weightBytes,
      keptBytes: timing.keptBytes,
      fuseSeconds: spread(timing.fuse).median,
      switchSeconds: median,
      switchSecondsRange: range,
      unfuseSeconds: spread(timing.unfuse).median,
      loraRatio: timing === lora ? null : roundRatios(lora.switch, timing.switch),
      rounds: timing.switch.length,
    }
  })
}
