// Adapter directories made wrong on purpose.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Adapter, type Tensor } from '../../lib/index.js'
import { native } from '../../lib/native/load.js'
import { temporaryDirectory } from './directories.js'

/** Tensors put in or, where undefined, left out. */
export type TensorChanges = Record<string, Tensor | undefined>

/** Loads the adapter of `from` with these keys of its config and these tensors changed. */
export async function changedAdapter(
  from: string,
  config: object,
  tensors: TensorChanges,
): Promise<Adapter> {
  const folder = temporaryDirectory()
  const read = JSON.parse(readFileSync(join(from, 'adapter_config.json'), 'utf8'))
  writeFileSync(join(folder, 'adapter_config.json'), JSON.stringify({ ...read, ...config }))
  const file = 'adapter_model.safetensors'
  const found = (await native().readSafetensors(join(from, file))).tensors
  const kept = Object.entries({ ...found, ...tensors }).filter(([, tensor]) => tensor)
  await native().writeSafetensors(
    join(folder, file),
    Object.fromEntries(kept) as Record<string, Tensor>,
    {},
  )
  return Adapter.load(folder)
}
