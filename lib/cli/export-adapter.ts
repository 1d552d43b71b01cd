// Writes any adapter in a format of others: PEFT's LoRA, or llama.cpp's GGUF.
import { basename, join, resolve } from 'node:path'
import { Adapter } from '../adapter/adapter.js'
import { type GgufDType, writeGguf } from '../adapter/gguf-file.js'
import { type ServingLimits, servingLimits } from '../adapter/serving-limits.js'
import { toGguf } from '../adapter/to-gguf.js'
import { toLora } from '../adapter/to-lora.js'
import { S2FTError } from '../errors.js'
import { parseModelConfig } from '../model/config.js'
import { isEmpty, publishDirectory } from '../model/directory.js'
import { readJson } from '../model/validate.js'

export const GGUF_FILE = 'adapter_model.gguf'

export interface ExportAdapterOptions {
  model: string
  adapter: string
  output: string
  format: 'peft' | 'gguf'
  /** GGUF: how values are stored. */
  outtype: 'f32' | 'f16' | 'bf16'
  /** Refuse larger ranks. */
  maxRank?: number
}

export interface ExportReport extends ServingLimits {
  modules: number
}

/**
 * Converts the adapter for the model it belongs to and saves it. The model's weights are not
 * read. Throws IO when `output` is not empty, ADAPTER_MISMATCH when the adapter does not fit,
 * UNSUPPORTED naming the module when a rank is above `maxRank`.
 */
export async function exportAdapter(options: ExportAdapterOptions): Promise<ExportReport> {
  const { format, output, maxRank, outtype } = options
  if (!(await isEmpty(output))) {
    throw new S2FTError('IO', `expected an empty directory at ${output}, found files in it`)
  }
  const file = join(options.model, 'config.json')
  const config = parseModelConfig(await readJson(file, 'INVALID_CONFIG'), file)
  const lora = toLora(await Adapter.load(options.adapter), config.native)
  const limits = servingLimits(lora, config.native)
  if (maxRank !== undefined && limits.rank > maxRank) {
    throw new S2FTError(
      'UNSUPPORTED',
      `${limits.module}: expected a rank up to --max-rank ${maxRank}, found ${limits.rank}: a slice ` +
        'of s rows or columns is a LoRA of rank s; raise the limit of the server, train fewer units, ' +
        'or use s2ft merge',
    )
  }
  if (format === 'gguf') {
    const name = basename(resolve(options.adapter))
    const dtype = outtype.toUpperCase() as GgufDType
    const { entries, tensors } = toGguf(lora, config, { dtype, name })
    await publishDirectory(output, { marker: GGUF_FILE }, (folder) =>
      writeGguf(join(folder, GGUF_FILE), entries, tensors),
    )
  } else {
    await lora.save(output)
  }
  const modules = [...lora.tensors.keys()].filter((name) => name.endsWith('.lora_A')).length
  // Ranks are no matter to llama.cpp, and DoRA did not come this far.
  return { modules, ...limits, notes: format === 'gguf' ? [] : limits.notes }
}
