// How a run's first case compares with the others: in speed and in memory, round by round.

import { between, times } from '../report/format.js'
import type { CaseResult } from './case.js'
import { type CaseIdentity, median, type Ratio, ratio } from './summary.js'

/** One `ratio` line of `s2ft bench train` and `s2ft bench real`: `method` over `against`. */
export interface RatioLine extends CaseIdentity {
  type: 'ratio'
  bench: string
  model: string
  quantity: 'tokensPerSecond' | 'samplesPerSecond' | 'peakBytes'
  against: string
  againstDtype: string
  againstVariant: CaseIdentity['variant']
  againstBatch: number
  /** Median over rounds. */
  ratio: number
  ratioRange: [number, number]
  /** `against` is the fastest of all cases with its method and variant. */
  best: boolean
}

/** A case with its rounds; all cases have the same rounds. */
export interface Measured<R extends CaseResult = CaseResult> {
  identity: CaseIdentity
  results: readonly R[]
}

/**
 * The first case against each of the others. `speed` is what a round of a case reached.
 */
export function ratioLines<R extends CaseResult>(
  run: { bench: string; model: string; quantity: 'tokensPerSecond' | 'samplesPerSecond' },
  cases: readonly Measured<R>[],
  speed: (result: R) => number,
): RatioLine[] {
  const [first, ...others] = cases
  if (!first) return []
  const typical = ({ results }: Measured<R>) => median(results.map(speed))
  return others.flatMap((other) => {
    const { method, dtype, variant, batch } = other.identity
    const fellows = others.filter(
      ({ identity }) => identity.method === method && identity.variant === variant,
    )
    const common = {
      type: 'ratio' as const,
      bench: run.bench,
      model: run.model,
      ...first.identity,
      against: method,
      againstDtype: dtype,
      againstVariant: variant,
      againstBatch: batch,
      best: fellows.every((fellow) => typical(fellow) <= typical(other)),
    }
    const line = (quantity: RatioLine['quantity'], of: (result: R) => number): RatioLine => {
      const found = ratio(first.results, other.results, of)
      return { ...common, quantity, ratio: found.median, ratioRange: found.range }
    }
    const lines = [line(run.quantity, speed)]
    const known = [...first.results, ...other.results].every((r) => r.peakBytes !== null)
    if (known) lines.push(line('peakBytes', (r) => r.peakBytes!))
    return lines
  })
}

/** What tells a ratio line's other case. */
type Against = Pick<RatioLine, 'quantity' | 'against' | 'againstDtype' | 'againstBatch'> & {
  againstVariant: string | null
}

/** The lines that compare a run's first case with `other`, in speed and in memory. */
export function ratiosTo<L extends Against>(
  lines: readonly L[],
  other: Omit<CaseIdentity, 'variant'> & { variant: string | null },
): { speed: L | undefined; memory: L | undefined } {
  const own = lines.filter(
    (line) =>
      line.against === other.method &&
      line.againstDtype === other.dtype &&
      line.againstVariant === other.variant &&
      line.againstBatch === other.batch,
  )
  return {
    speed: own.find((line) => line.quantity !== 'peakBytes'),
    memory: own.find((line) => line.quantity === 'peakBytes'),
  }
}

/** `1.07x`, `1.04-1.11`. */
export function ratioCells(
  line: Pick<RatioLine, 'ratio' | 'ratioRange'> | undefined,
): [string, string] {
  return [times(line?.ratio), between(line?.ratioRange)]
}

/** `1.07x (1.04-1.11)`. */
export function ratioText(found: Ratio | null | undefined): string {
  return found ? `${times(found.median)} (${between(found.range)})` : times(null)
}
