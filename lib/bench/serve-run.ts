// What the parts of `s2ft bench serve` share: their processes, figures with ranges, and what is
// left out for lack of memory.
import type { NativeLayerSpec, NativeSwitchSpec } from '../native/binding.js'
import { availableMemory } from '../trainer/memory.js'
import { ownScript, runChild } from './process.js'
import type { LoadSpec } from './serve-load-case.js'
import type { ThroughputSpec } from './serve-throughput-case.js'
import { median, type Ratio } from './summary.js'

export const serveParts = ['switch', 'layer', 'throughput', 'load'] as const
export type ServePart = (typeof serveParts)[number]

/** What a process of serve-case.js is asked for. */
export type ServeSpec =
  | { part: 'switch'; spec: NativeSwitchSpec }
  | { part: 'layer'; spec: NativeLayerSpec }
  | { part: 'throughput'; spec: ThroughputSpec }
  | { part: 'load'; spec: LoadSpec }

/** A case that was not measured: it would need more memory than there is. */
export interface ServeSkipped {
  type: 'serve-skipped'
  part: ServePart
  what: string
  neededBytes: number
  availableBytes: number
}

/** Runs a case in a fresh process. Throws as runChild. */
export function runServeCase<R>(name: string, spec: ServeSpec, signal?: AbortSignal): Promise<R> {
  return runChild<R>(name, ownScript('serve-case.js', spec), signal)
}

/** The line of a case for which memory does not suffice; undefined where it does. */
export function lackOfMemory(
  part: ServePart,
  what: string,
  neededBytes: number,
): ServeSkipped | undefined {
  const availableBytes = availableMemory()
  if (neededBytes <= availableBytes) return undefined
  return { type: 'serve-skipped', part, what, neededBytes, availableBytes }
}

/** Median, least and most. */
export function spread(values: readonly number[]): Ratio {
  return { median: median(values), range: [Math.min(...values), Math.max(...values)] }
}

/** `a / b` round by round. */
export function roundRatios(a: readonly number[], b: readonly number[]): Ratio {
  return spread(a.map((value, round) => value / b[round]!))
}
