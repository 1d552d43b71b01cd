// Measures single operations of the engine in the shapes of one transformer block, and turns
// the timings into rates and shares of the peak that the same run reached.
import { S2FTError } from '../errors.js'
import { devices } from '../model/devices.js'
import type { DType, NativeOpsSpec, NativeOpTiming } from '../native/binding.js'
import { native } from '../native/load.js'
import type { ShapeConfig } from './shapes.js'
import { median, type Ratio } from './summary.js'

export const opGroups = ['copy', 'products', 'attention', 'elementwise', 'method'] as const
export type OpGroup = (typeof opGroups)[number]

export interface OpsOptions {
  dtype: DType
  /** 0: all CPUs of this process. */
  threads: number
  arithmetic: 'auto' | 'native' | 'widen'
  tokens: number
  /** Channels of gate, up and down that S²FT trains. */
  channels: number
  /** LoRA's rank. */
  rank: number
  /** Time for an operation; five rounds are run in any case. */
  seconds: number
}

/** One operation's line of `s2ft bench ops --json`. */
export interface OpResult {
  type: 'op'
  op: string
  group: OpGroup
  dtype: DType
  /** Of one run: median over the rounds, least and most. */
  seconds: number
  secondsRange: [number, number]
  /** Null where memory is the limit. */
  gflops: number | null
  /** Operands read and results written, once each. */
  gbps: number
  /** Of the peak GFLOP/s; where `gflops` is null, of the peak GB/s. */
  shareOfPeak: number
  rounds: number
}

/** How many times the time of `op` the operation `against` takes. */
export interface OpRatio {
  type: 'ratio'
  op: string
  against: string
  dtype: DType
  ratio: number
  ratioRange: [number, number]
}

export interface OpPeak {
  type: 'peak'
  device: 'cpu'
  threads: number
  /** The probe's or the fastest operation's, whichever is higher. */
  gflops: number
  /** The fastest copy of a large matrix. */
  gbps: number
}

export interface OpsReport {
  peak: OpPeak
  ops: OpResult[]
  ratios: OpRatio[]
}

/** Each published kernel and its counterpart in LoRA. */
const pairs = [
  ['partial_forward', 'lora_forward'],
  ['partial_backward', 'lora_backward'],
  ['slice_adamw', 'lora_adamw'],
] as const

/**
 * Runs every group, one after another; `progress` hears of each before it begins.
 *
 * @throws CANCELLED between groups once `signal` is aborted, INVALID_ARGUMENT, OUT_OF_MEMORY
 */
export async function runOps(
  shape: ShapeConfig,
  options: OpsOptions,
  progress: (group: OpGroup) => void = () => {},
  signal?: AbortSignal,
): Promise<OpsReport> {
  const [device] = await devices({ threads: options.threads })
  const probed = options.dtype === 'f32' ? device!.peakGflopsF32 : device!.peakGflops
  const timings: [OpGroup, NativeOpTiming[]][] = []
  for (const group of opGroups) {
    if (signal?.aborted) throw new S2FTError('CANCELLED', 'the benchmark was cancelled')
    progress(group)
    timings.push([group, await native().benchOps(specOf(shape, options, group))])
  }
  return summariseOps(timings, options.dtype, probed, device!.threads)
}

function specOf(shape: ShapeConfig, options: OpsOptions, group: OpGroup): NativeOpsSpec {
  return {
    ...options,
    group,
    hidden: shape.hidden_size,
    intermediate: shape.intermediate_size,
    heads: shape.num_attention_heads,
    kvHeads: shape.num_key_value_heads,
    headDim: shape.head_dim,
    vocab: shape.vocab_size,
  }
}

/** Rates, shares and ratios; ratios pair the runs of one round. */
export function summariseOps(
  timings: readonly [OpGroup, readonly NativeOpTiming[]][],
  dtype: DType,
  probed: number,
  threads: number,
): OpsReport {
  const all = timings.flatMap(([group, list]) => list.map((timing) => ({ group, ...timing })))
  const best = (list: readonly NativeOpTiming[], amount: (t: NativeOpTiming) => number) =>
    Math.max(0, ...list.map((t) => amount(t) / Math.min(...t.seconds) / 1e9))
  const copies = all.filter((t) => t.group === 'copy')
  const peak: OpPeak = {
    type: 'peak',
    device: 'cpu',
    threads,
    gflops: Math.max(
      probed,
      best(all, (t) => t.flops),
    ),
    gbps: best(copies, (t) => t.bytes),
  }
  const ops = all.map((t): OpResult => {
    const seconds = median(t.seconds)
    const gflops = t.flops > 0 ? t.flops / seconds / 1e9 : null
    const gbps = t.bytes / seconds / 1e9
    return {
      type: 'op',
      op: t.op,
      group: t.group,
      dtype,
      seconds,
      secondsRange: [Math.min(...t.seconds), Math.max(...t.seconds)],
      gflops,
      gbps,
      shareOfPeak: gflops === null ? gbps / peak.gbps : gflops / peak.gflops,
      rounds: t.seconds.length,
    }
  })
  const ratios = pairs.flatMap(([op, against]): OpRatio[] => {
    const own = all.find((t) => t.op === op)
    const other = all.find((t) => t.op === against)
    if (!own || !other) return []
    const { median: ratio, range } = ratioOf(other.seconds, own.seconds)
    return [{ type: 'ratio', op, against, dtype, ratio, ratioRange: range }]
  })
  return { peak, ops, ratios }
}

function ratioOf(a: readonly number[], b: readonly number[]): Ratio {
  const values = a.map((seconds, round) => seconds / b[round]!)
  return { median: median(values), range: [Math.min(...values), Math.max(...values)] }
}
