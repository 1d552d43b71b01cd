// Evaluates in units: fixed groups of samples that go through the engine together. An evaluation
// that was broken off continues behind its last complete unit, and as every unit meets the same
// neighbours as before, down to the last bit with the same results.
import { S2FTError } from '../errors.js'
import { wilsonInterval } from './interval.js'
import type { Accuracy, EvalOptions, EvalSample } from './types.js'

/** A running figure: samples in, a short text out. */
export interface Running {
  add(sample: EvalSample): void
  text(): string
}

interface Units {
  /** Indices in the order in which they are evaluated. */
  order: readonly number[]
  /** Samples in a unit. */
  size: number
  running: Running
  /** Evaluates a unit, in any order; `finished` once for each of its indices. */
  evaluate: (indices: number[], finished: (sample: EvalSample) => void) => Promise<void>
}

/** The numbers below `count`. */
export function fileOrder(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i)
}

export function checkSignal(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new S2FTError('CANCELLED', 'the evaluation was cancelled')
}

/** How many of the earlier samples stand: all of the complete units at the order's start. */
function standing(done: readonly EvalSample[], { order, size }: Units): number {
  for (const [at, { index, source }] of done.entries()) {
    if (index === order[at]) continue
    throw new S2FTError(
      'INVALID_DATA',
      `${source}: expected sample ${order[at] ?? 'none'} in place ${at} of the earlier results, ` +
        `found ${index}: they are of another evaluation`,
    )
  }
  return done.length === order.length ? done.length : done.length - (done.length % size)
}

/**
 * All samples, those of `options.done` among them, in the units' order.
 * Throws CANCELLED between units, and INVALID_DATA when `done` is not of this evaluation.
 */
export async function evaluateUnits(units: Units, options: EvalOptions): Promise<EvalSample[]> {
  const { order, size, running } = units
  const done = options.done ?? []
  const kept = standing(done, units)
  options.onResume?.(kept)
  const samples = done.slice(0, kept)
  for (const sample of samples) running.add(sample)
  const progress = (more: number) =>
    options.onProgress?.(samples.length + more, order.length, running.text())
  if (kept > 0) progress(0)
  while (samples.length < order.length) {
    checkSignal(options.signal)
    const indices = order.slice(samples.length, samples.length + size)
    const found = new Map<number, EvalSample>()
    await units.evaluate(indices, (sample) => {
      found.set(sample.index, sample)
      running.add(sample)
      progress(found.size)
    })
    // A cancelled generation leaves its unit incomplete.
    if (found.size < indices.length) checkSignal(options.signal)
    for (const index of indices) {
      const sample = found.get(index)!
      samples.push(sample)
      options.onSample?.(sample)
    }
  }
  return samples
}

/** `accuracy 12.3%` of the samples so far. */
export class RunningAccuracy implements Running {
  private correct = 0
  private count = 0

  add(sample: EvalSample): void {
    this.count++
    if (sample.correct) this.correct++
  }

  text(): string {
    return `accuracy ${((100 * this.correct) / Math.max(1, this.count)).toFixed(1)}%`
  }
}

export function accuracyOf(samples: readonly EvalSample[]): Accuracy {
  const count = samples.length
  const correct = samples.filter((sample) => sample.correct).length
  return { accuracy: correct / count, interval: wilsonInterval(correct, count), correct, count }
}
