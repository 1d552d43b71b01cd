// Temporary copies of golden models that a test may change.
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'
import { goldenRoot } from './golden.js'
import { type RawTensor, readSafetensors, writeSafetensors } from './safetensors.js'

const made: string[] = []
afterAll(() => {
  for (const directory of made.splice(0)) rmSync(directory, { recursive: true, force: true })
})

/** An empty directory that is removed after the file's tests. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 's2ft-test-'))
  made.push(directory)
  return directory
}

/** A copy of a golden model, with its configuration and tensors changed as asked. */
export function copyModel(
  name: string,
  changes: {
    config?: (config: Record<string, unknown>) => void
    tensors?: (tensors: Map<string, RawTensor>) => void
  } = {},
): string {
  const directory = temporaryDirectory()
  cpSync(join(goldenRoot, name), directory, {
    recursive: true,
    filter: (path) => !/case\.json$|expected\.safetensors$|lora-init/.test(path),
  })
  if (changes.config) {
    const path = join(directory, 'config.json')
    const config = JSON.parse(readFileSync(path, 'utf8'))
    changes.config(config)
    writeFileSync(path, JSON.stringify(config))
  }
  if (changes.tensors) {
    const path = join(directory, 'model.safetensors')
    const tensors = readSafetensors(path)
    changes.tensors(tensors)
    writeSafetensors(path, tensors)
  }
  return directory
}
