// Short names of evaluated files.
import { basename, dirname, extname } from 'node:path'

const SPLIT = '(?:test|eval|validation|val|dev)'

function shortName(file: string): string {
  const stem = basename(file, extname(file))
  // `boolq/test.json`: the folder says what it is.
  const folder = basename(dirname(file))
  if (new RegExp(`^${SPLIT}$`).test(stem) && /\w/.test(folder)) return folder
  return stem.replace(new RegExp(`[-_.]${SPLIT}$`), '') || stem
}

/**
 * `gsm8k` for `math/gsm8k-test.json` and for `gsm8k/test.json`; the paths as given when short names
 * are not distinct.
 */
export function taskNames(files: readonly string[]): string[] {
  const names = files.map(shortName)
  return new Set(names).size === names.length ? names : [...files]
}
