// Decides whether a directory may be trained into.
import { readdir } from 'node:fs/promises'
import { S2FTError } from '../errors.js'

const OF_A_RUN =
  /^(metrics\.jsonl|run\.json|trainer_state\.json|training_args\.json|adapter_config\.json|adapter_model\.safetensors|checkpoint-\d+|\..*)$/

/**
 * Throws IO when `directory` holds files but no earlier training run, unless `overwrite`: a
 * mistyped path must not mix a run into other files.
 */
export async function refuseForeignDirectory(directory: string, overwrite: boolean): Promise<void> {
  let names: string[]
  try {
    names = await readdir(directory)
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException
    if (code === 'ENOENT') return
    throw new S2FTError('IO', `output directory ${directory}: ${message}`, { cause })
  }
  const visible = names.filter((name) => !name.startsWith('.'))
  if (visible.length === 0 || overwrite || visible.includes('metrics.jsonl')) return
  if (visible.every((name) => OF_A_RUN.test(name))) return
  throw new S2FTError(
    'IO',
    `expected an empty directory or an earlier run at ${directory}, found ${visible.slice(0, 3).join(', ')}: ` +
      'choose another --output, or pass --overwrite-output-dir',
  )
}
