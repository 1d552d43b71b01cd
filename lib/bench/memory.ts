// What a step holds: the plan beside the measured peak, and what each recompute policy costs.
import type { NativeMemoryPlan, Recompute } from '../native/binding.js'
import type { CaseResult, CaseSpec } from './case.js'
import { type BenchMethod, recomputedOperations, stepOperations } from './operations.js'
import { peerMethods } from './peers.js'
import type { Case } from './run.js'
import type { ShapeConfig } from './shapes.js'
import { type CaseSummary, median, type Ratio, ratio, summarise } from './summary.js'

export const recomputePolicies = ['none', 'selective', 'block'] as const
/** Measured as they come: what tunes them for speed costs memory. */
export const memoryPeers = ['peft-lora7', 'peft-lora3'] as const

/** Bytes, each the median over the rounds; null where the system or a peer does not tell. */
export interface MemoryFigures {
  /** What the plan predicts for the peak, and its parts. */
  plannedBytes: number | null
  plan: NativeMemoryPlan | null
  /** planned / peak - 1, round by round. */
  planDifference: number | null
  /** Resident before the model was loaded, and just before the first step. */
  baseBytes: number | null
  startBytes: number | null
  /** Peak less base: weights, optimizer and step. Peak less start: what the step itself takes. */
  memoryBytes: number | null
  stepBytes: number | null
}

/** One line of `s2ft bench memory --json`. */
export interface MemorySummary extends Omit<CaseSummary, 'type'>, MemoryFigures {
  type: 'memory'
  /** Null for the peers. */
  recompute: Recompute | null
  seconds: number
  secondsRange: [number, number]
  /** Operations repeated in backward; not part of `gflop`, so never credited to a speed. */
  recomputedGflop: number
  /** Step time and peak relative to the same method with recompute `none`, round by round. */
  timeAgainstNone: Ratio | null
  peakAgainstNone: Ratio | null
  /** Peak relative to each peer's in the same element type, round by round. */
  peakAgainst: Record<string, Ratio>
}

type DType = CaseSpec['dtype']

export interface MemoryOptions {
  /** Methods, over how their base is stored. */
  methods: readonly {
    name: string
    method: BenchMethod
    quantize: NonNullable<CaseSpec['quantize']>
  }[]
  recompute: readonly Recompute[]
  dtypes: readonly DType[]
  device: CaseSpec['device']
  arithmetic: NonNullable<CaseSpec['arithmetic']>
  threads: number
  batch: number
  sequence: number
  steps: number
  warmup: number
  rank: number
  channels: number
  /** Python with torch, transformers and peft. */
  python?: string
}

/** Every method under every policy, then the peers; `directories` has the model by type. */
export function memoryCases(
  options: MemoryOptions,
  shape: ShapeConfig,
  directories: Readonly<Partial<Record<DType, string>>>,
): Case[] {
  const { methods, recompute, dtypes, python, ...common } = options
  const sizes = { vocabulary: shape.vocab_size, intermediate: shape.intermediate_size }
  return dtypes.flatMap((dtype) => {
    const spec = { ...common, ...sizes, model: directories[dtype]!, dtype }
    const own = methods.flatMap(({ name, method, quantize }) =>
      recompute.map((policy) => ({
        name,
        spec: { ...spec, method, quantize, recompute: policy },
      })),
    )
    if (python === undefined) return own
    const peer = { python, variant: 'eager' } as const
    const peers = memoryPeers.map((name) => {
      return { name, spec: { ...spec, method: peerMethods[name] }, peer }
    })
    return [...own, ...peers]
  })
}

function typical(values: readonly (number | undefined)[]): number | null {
  return values.includes(undefined) || values.length === 0 ? null : median(values as number[])
}

/** The memory side of a case's rounds. */
export function memoryFigures(results: readonly CaseResult[]): MemoryFigures {
  const over = (of: (r: CaseResult) => number | undefined) => typical(results.map(of))
  const beyond = (bytes: keyof CaseResult & ('baseBytes' | 'startBytes')) =>
    over((r) => (r.peakBytes && r[bytes] !== undefined ? r.peakBytes - r[bytes] : undefined))
  return {
    plannedBytes: over((r) => r.plan?.total),
    plan: results[0]?.plan ?? null,
    planDifference: over((r) =>
      r.peakBytes && r.plan ? r.plan.total / r.peakBytes - 1 : undefined,
    ),
    baseBytes: over((r) => r.baseBytes),
    startBytes: over((r) => r.startBytes),
    memoryBytes: beyond('baseBytes'),
    stepBytes: beyond('startBytes'),
  }
}

/** Median and range of all timed steps. */
export function stepSeconds(results: readonly CaseResult[]): {
  seconds: number
  secondsRange: [number, number]
} {
  const all = results.flatMap((r) => r.seconds)
  return { seconds: median(all), secondsRange: [Math.min(...all), Math.max(...all)] }
}

/** A line a case, in the cases' order. */
export function summariseMemory(
  cases: readonly Case[],
  results: readonly CaseResult[][],
  model: string,
  shape: ShapeConfig,
): MemorySummary[] {
  // Whatever disturbs a probe makes it read too low, never too high.
  const peakOf = (dtype: string) => {
    const found = cases.flatMap(({ spec }, i) => (spec.dtype === dtype ? results[i]! : []))
    const peaks = found.flatMap((r) => r.peakGflops ?? [])
    return peaks.length > 0 ? Math.max(...peaks) : undefined
  }
  const peak = (r: CaseResult) => r.peakBytes ?? Number.NaN
  const known = (found: Ratio) => (Number.isFinite(found.median) ? found : null)
  return cases.map((item, i): MemorySummary => {
    const own = results[i]!
    const { spec, peer } = item
    const { method, dtype, batch, sequence, recompute } = spec
    const gflop = stepOperations(shape, method, batch, sequence, spec) / 1e9
    const find = (wanted: (other: Case) => boolean) => {
      const at = cases.findIndex((other) => other.spec.dtype === dtype && wanted(other))
      return results[at]
    }
    const none = find(
      (c) => !peer && !c.peer && c.name === item.name && c.spec.recompute === 'none',
    )
    const against = memoryPeers.flatMap((name): [string, Ratio][] => {
      const other = find((c) => c.peer !== undefined && c.name === name)
      const found = other && known(ratio(own, other, peak))
      return found ? [[name, found]] : []
    })
    return {
      ...summarise(item, model, own, gflop, peakOf(dtype)),
      type: 'memory',
      recompute: peer ? null : (recompute ?? null),
      ...stepSeconds(own),
      ...memoryFigures(own),
      recomputedGflop: recompute
        ? recomputedOperations(shape, method, recompute, batch, sequence, spec) / 1e9
        : 0,
      timeAgainstNone: none ? ratio(own, none, (r) => median(r.seconds)) : null,
      peakAgainstNone: none ? known(ratio(own, none, peak)) : null,
      peakAgainst: Object.fromEntries(against),
    }
  })
}
