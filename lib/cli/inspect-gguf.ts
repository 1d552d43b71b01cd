// Says what a GGUF file holds: of LoRA adapters everything, of others what they call themselves.
import { stat } from 'node:fs/promises'
import { GGUF_DTYPES, readGgufHead } from '../adapter/gguf-file.js'
import { bytes } from '../report/format.js'
import type { Part } from './inspect-directory.js'

function typeName(id: number): string {
  const known = Object.entries(GGUF_DTYPES).find(([, dtype]) => dtype.id === id)
  return known ? known[0] : `type ${id}`
}

/** Throws CORRUPT_FILE, UNSUPPORTED, IO as readGgufHead does. */
export async function inspectGguf(path: string): Promise<Part> {
  const { version, metadata, tensors } = await readGgufHead(path)
  const found = (key: string, absent = 'not recorded') => metadata.get(key) ?? absent
  const common = {
    path,
    version,
    architecture: found('general.architecture'),
    name: found('general.name'),
    dtypes: [...new Set(tensors.map(({ type }) => typeName(type)))].join(', '),
    parameters: tensors.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0),
    size: bytes((await stat(path)).size),
  }
  if (metadata.get('general.type') !== 'adapter') {
    return { type: 'gguf', ...common, holds: found('general.type'), tensors: tensors.length }
  }
  const shapes = new Map(tensors.map(({ name, shape }) => [name, shape]))
  const modules = tensors.flatMap(({ name, shape: [rank = 0, input = 0] }) => {
    if (!name.endsWith('.lora_a')) return []
    const module = name.slice(0, -'.lora_a'.length)
    return [{ module, rank, in: input, out: shapes.get(`${module}.lora_b`)?.[0] ?? 0 }]
  })
  return {
    type: 'gguf-adapter',
    ...common,
    adapter: found('adapter.type'),
    alpha: found('adapter.lora.alpha'),
    baseModel: found('general.base_model.0.name'),
    baseFingerprint: found('s2ft.base_fingerprint'),
    modules,
  }
}
