// Whether two sides do the same work: before the first update both have the base model's loss.
import type { BenchMethod } from './operations.js'

/** Whether a method's first loss is the base model's: LoReFT starts from random values. */
export function startsAtBase(method: BenchMethod): boolean {
  return method !== 'loreft'
}

/**
 * Of the expected loss. bf16 products differ by some 1e-3 of it between engines; another
 * tokenization, mask or sample order by more than a few per cent.
 */
const TOLERANCE = 0.01

/** What is wrong with a case's first loss; undefined when it is as expected. */
export function lossDisagreement(
  label: string,
  found: number | undefined,
  expected: number,
): string | undefined {
  if (found !== undefined && Math.abs(found - expected) <= TOLERANCE * Math.abs(expected)) return
  return (
    `${label}: expected a first loss near ${expected.toFixed(4)}, found ` +
    `${found?.toFixed(4) ?? 'none'}: it does not do the same work, do not compare it`
  )
}
