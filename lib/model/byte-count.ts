// Sizes as people write them.
import { S2FTError } from '../errors.js'
import { show } from './validate.js'

const UNITS: Record<string, number> = { '': 1, B: 1, KB: 1e3, MB: 1e6, GB: 1e9 }

/** Bytes of 500, '500MB' or '5GB'. Throws INVALID_ARGUMENT naming the option. */
export function byteCount(given: number | string, option: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([KMG]?B|)$/i.exec(String(given))
  const bytes = match ? Number(match[1]) * UNITS[match[2]!.toUpperCase()]! : 0
  if (bytes >= 1) return bytes
  throw new S2FTError(
    'INVALID_ARGUMENT',
    `${option}: expected a positive number of bytes or a text like "5GB", found ${show(given)}`,
  )
}
