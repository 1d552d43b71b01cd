// Short names of evaluated files.
import { basename, extname } from 'node:path'

/** `gsm8k` for `math/gsm8k-test.json`; the paths as given when short names are not distinct. */
export function taskNames(files: readonly string[]): string[] {
  const names = files.map((file) => {
    const stem = basename(file, extname(file))
    return stem.replace(/[-_.](test|eval|validation|val|dev)$/, '') || stem
  })
  return new Set(names).size === names.length ? names : [...files]
}
