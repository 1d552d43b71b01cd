// Finds the weight files of a Hugging Face directory without trusting anything in it.
import { open, readdir, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { z } from 'zod'
import { S2FTError } from '../errors.js'
import type { DType } from '../native/binding.js'
import { readJson, show, validate } from './validate.js'

const INDEX = 'model.safetensors.index.json'
const HEADER_LIMIT = 100_000_000

const indexSchema = z.looseObject({
  weight_map: z.record(z.string(), z.string()).refine((map) => Object.keys(map).length > 0, {
    message: 'expected at least one tensor',
  }),
})

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isFile(),
    () => false,
  )
}

/**
 * The safetensors files of `directory`, in order of name. Throws IO when the directory or a
 * shard is missing, CORRUPT_FILE when the index is not one or points outside the directory,
 * UNSUPPORTED_MODEL when there are only pickled weights.
 */
export async function weightFiles(directory: string): Promise<string[]> {
  const single = join(directory, 'model.safetensors')
  if (await exists(single)) return [single]
  const index = join(directory, INDEX)
  if (await exists(index)) {
    const { weight_map } = validate(
      indexSchema,
      await readJson(index, 'CORRUPT_FILE'),
      index,
      'CORRUPT_FILE',
    )
    const shards = [...new Set(Object.values(weight_map))].sort()
    for (const shard of shards) {
      if (basename(shard) !== shard || shard.includes('\\') || !shard.endsWith('.safetensors')) {
        throw new S2FTError(
          'CORRUPT_FILE',
          `${index}: weight_map: expected names of .safetensors files beside it, ` +
            `found ${show(shard)}`,
        )
      }
      if (!(await exists(join(directory, shard)))) {
        throw new S2FTError('IO', `${index}: expected shard ${shard} in ${directory}, found none`)
      }
    }
    return shards.map((shard) => join(directory, shard))
  }
  return refuse(directory)
}

async function refuse(directory: string): Promise<never> {
  let names: string[]
  try {
    names = await readdir(directory)
  } catch (cause) {
    throw new S2FTError(
      'IO',
      `expected a model directory at ${directory}: ${(cause as Error).message}`,
      { cause },
    )
  }
  const pickled = names.find((name) => /\.(bin|pt|pth|pkl|ckpt)$/.test(name))
  if (pickled) {
    throw new S2FTError(
      'UNSUPPORTED_MODEL',
      `${directory}: expected model.safetensors or ${INDEX}, found ${pickled}: pickled weights ` +
        'can run code and are never opened; convert them with transformers ' +
        '(save_pretrained writes safetensors)',
    )
  }
  throw new S2FTError(
    'IO',
    `${directory}: expected model.safetensors or ${INDEX}, found ` +
      (names.length ? show(names.slice(0, 8).join(', ')) : 'an empty directory'),
  )
}

/** bf16 when most of a file's bytes are BF16, else f32. Reads the header only. */
export async function checkpointDtype(file: string): Promise<DType> {
  const corrupt = (message: string) => new S2FTError('CORRUPT_FILE', `${file}: ${message}`)
  const handle = await open(file, 'r')
  let header: unknown
  try {
    const { size } = await handle.stat()
    const prefix = Buffer.alloc(8)
    if ((await handle.read(prefix, 0, 8, 0)).bytesRead < 8) {
      throw corrupt(`expected a safetensors header, found ${size} bytes`)
    }
    const length = prefix.readBigUInt64LE()
    if (length > BigInt(Math.min(HEADER_LIMIT, size - 8))) {
      throw corrupt(
        `expected a header within ${Math.min(HEADER_LIMIT, size - 8)} bytes, found ${length}`,
      )
    }
    const text = Buffer.alloc(Number(length))
    await handle.read(text, 0, text.length, 8)
    header = JSON.parse(text.toString('utf8'))
  } catch (cause) {
    if (cause instanceof S2FTError) throw cause
    throw new S2FTError('CORRUPT_FILE', `${file}: ${(cause as Error).message}`, { cause })
  } finally {
    await handle.close()
  }
  const entry = z.object({ dtype: z.string(), shape: z.array(z.number()) })
  const counts = { bf16: 0, other: 0 }
  for (const [name, value] of Object.entries(header ?? {})) {
    if (name === '__metadata__') continue
    const found = entry.safeParse(value)
    if (!found.success) throw corrupt(`tensor ${show(name)}: expected dtype and shape`)
    const elements = found.data.shape.reduce((product, length) => product * length, 1)
    counts[found.data.dtype === 'BF16' ? 'bf16' : 'other'] += elements
  }
  return counts.bf16 > counts.other ? 'bf16' : 'f32'
}
