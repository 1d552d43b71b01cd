// Writes a complete Hugging Face directory from a loaded model.
import { copyFile, readFile, stat, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { S2FTError } from '../errors.js'
import type { NativeModel, TensorDType } from '../native/binding.js'
import { byteCount } from './byte-count.js'
import { isEmpty, publishDirectory } from './directory.js'
import type { SaveOptions } from './types.js'
import { show } from './validate.js'

/** Copied from the base beside config.json and the weights, where present. */
const COMPANIONS = [
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'tokenizer.model',
  'vocab.json',
  'merges.txt',
  'chat_template.jinja',
  'chat_template.json',
]
const WIDTH: Record<TensorDType, number> = { F32: 4, I32: 4, BF16: 2, F16: 2 }
const NAMES = { f32: 'float32', bf16: 'bfloat16', f16: 'float16' } as const

interface SavedTensor {
  name: string
  dtype: TensorDType
  bytes: number
}

/** Splits tensors in order; a tensor larger than the limit gets a shard of its own. */
function split(tensors: SavedTensor[], limit: number): SavedTensor[][] {
  const shards: SavedTensor[][] = [[]]
  let bytes = 0
  for (const tensor of tensors) {
    if (bytes > 0 && bytes + tensor.bytes > limit) {
      shards.push([])
      bytes = 0
    }
    shards.at(-1)!.push(tensor)
    bytes += tensor.bytes
  }
  return shards
}

async function writeConfig(from: string, to: string, dtype: SaveOptions['dtype']): Promise<void> {
  if (dtype === undefined || dtype === 'checkpoint') {
    await copyFile(from, to)
    return
  }
  const config = JSON.parse(await readFile(from, 'utf8')) as Record<string, unknown>
  const key = 'torch_dtype' in config && !('dtype' in config) ? 'torch_dtype' : 'dtype'
  config[key] = NAMES[dtype]
  if (key === 'dtype') delete config.torch_dtype
  await writeFile(to, `${JSON.stringify(config, null, 2)}\n`)
}

async function copyCompanions(source: string, directory: string): Promise<void> {
  for (const name of COMPANIONS) {
    const found = await stat(join(source, name)).catch(() => undefined)
    if (found?.isFile()) await copyFile(join(source, name), join(directory, name))
  }
}

/**
 * Writes weights, index, config.json (unchanged apart from its dtype when that changes) and the
 * tokenizer's files of `source` to `target`, complete or not at all. Throws INVALID_ARGUMENT when
 * the target is not empty (unless `overwrite`) or is the source itself, IO when writing fails.
 */
export async function saveModel(
  model: NativeModel,
  source: string,
  target: string,
  options: SaveOptions = {},
): Promise<void> {
  const { dtype = 'checkpoint' } = options
  const limit = byteCount(options.maxShardSize ?? '5GB', 'maxShardSize')
  if (!['checkpoint', 'f32', 'bf16', 'f16'].includes(dtype)) {
    throw new S2FTError(
      'INVALID_ARGUMENT',
      `dtype: expected one of checkpoint, f32, bf16, f16, found ${show(dtype)}`,
    )
  }
  if (resolve(source) === resolve(target)) {
    throw new S2FTError(
      'INVALID_ARGUMENT',
      `expected another directory than ${source}, which the model is loaded from`,
    )
  }
  if (!options.overwrite && !(await isEmpty(target))) {
    throw new S2FTError(
      'INVALID_ARGUMENT',
      `expected an empty or absent directory, found files in ${target} (overwrite: true replaces them)`,
    )
  }
  const tensors = model.tensors().map(({ name, dtype: stored, shape }): SavedTensor => {
    const kept = dtype === 'checkpoint' ? stored : (dtype.toUpperCase() as TensorDType)
    const elements = shape.reduce((product, length) => product * length, 1)
    return { name, dtype: kept, bytes: elements * WIDTH[kept] }
  })
  const shards = split(tensors, limit)
  const shardName = (index: number) => {
    if (shards.length === 1) return 'model.safetensors'
    const pad = (value: number) => String(value).padStart(5, '0')
    return `model-${pad(index + 1)}-of-${pad(shards.length)}.safetensors`
  }
  const publish = {
    marker: 'config.json',
    stale: /^model(-\d+-of-\d+)?\.safetensors(\.index\.json)?$/,
  }
  await publishDirectory(target, publish, async (directory) => {
    await writeConfig(join(source, 'config.json'), join(directory, 'config.json'), dtype)
    await copyCompanions(source, directory)
    for (const [index, shard] of shards.entries()) {
      const selected = shard.map(({ name, dtype: kept }) => ({ name, dtype: kept }))
      await model.save(join(directory, shardName(index)), selected, { format: 'pt' })
    }
    if (shards.length === 1) return
    const entries = shards.flatMap((shard, index) =>
      shard.map(({ name }) => [name, shardName(index)] as const),
    )
    const index = {
      metadata: { total_size: tensors.reduce((sum, { bytes }) => sum + bytes, 0) },
      weight_map: Object.fromEntries(entries),
    }
    const path = join(directory, 'model.safetensors.index.json')
    await writeFile(path, `${JSON.stringify(index, null, 2)}\n`)
  })
}
