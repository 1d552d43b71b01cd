// Stamps: small files that remember which inputs a build step has already handled.
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { root } from './process.mjs'

/** Files below the given paths (relative to the root), sorted. */
export function listFiles(paths, accept = () => true) {
  const found = []
  const walk = (path) => {
    const full = join(root, path)
    if (!existsSync(full)) return
    if (statSync(full).isDirectory()) {
      for (const name of readdirSync(full).sort()) walk(join(path, name))
    } else if (accept(path)) {
      found.push(path)
    }
  }
  for (const path of paths) walk(path)
  return found
}

/** A short hash over names, sizes and modification times of files, and over `extra`. */
export function fingerprint(paths, extra = [], accept = undefined) {
  const hash = createHash('sha256')
  for (const path of listFiles(paths, accept)) {
    const { size, mtimeMs } = statSync(join(root, path))
    hash.update(`${path}\0${size}\0${mtimeMs}\n`)
  }
  hash.update(JSON.stringify(extra))
  return hash.digest('hex').slice(0, 32)
}

/** True when the stamp file holds this value. */
export function stamped(file, value) {
  try {
    return readFileSync(join(root, file), 'utf8') === value
  } catch {
    return false
  }
}

/** Writes a stamp. */
export function stamp(file, value) {
  mkdirSync(dirname(join(root, file)), { recursive: true })
  writeFileSync(join(root, file), value)
}
