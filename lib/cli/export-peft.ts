// Writes any adapter as a LoRA adapter in PEFT's own format.
import { join } from 'node:path'
import { Adapter } from '../adapter/adapter.js'
import { toLora } from '../adapter/to-lora.js'
import { S2FTError } from '../errors.js'
import { parseModelConfig } from '../model/config.js'
import { isEmpty } from '../model/directory.js'
import { readJson } from '../model/validate.js'

/**
 * Converts the adapter for the model it belongs to and saves it. The model's weights are not
 * read. Throws IO when `output` is not empty, ADAPTER_MISMATCH when the adapter does not fit.
 */
export async function exportPeft(options: {
  model: string
  adapter: string
  output: string
}): Promise<{ modules: number; rank: number }> {
  if (!(await isEmpty(options.output))) {
    throw new S2FTError('IO', `expected an empty directory at ${options.output}, found files in it`)
  }
  const file = join(options.model, 'config.json')
  const config = parseModelConfig(await readJson(file, 'INVALID_CONFIG'), file)
  const converted = toLora(await Adapter.load(options.adapter), config.native)
  await converted.save(options.output)
  const factors = [...converted.tensors].filter(([name]) => name.endsWith('.lora_A'))
  const rank = Math.max(...factors.map(([, { shape }]) => shape[0]!))
  return { modules: factors.length, rank }
}
