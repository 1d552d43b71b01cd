// Reads the header of a safetensors file: names, types and shapes, not the data.
import { open } from 'node:fs/promises'
import { z } from 'zod'
import { S2FTError } from '../errors.js'

const MAX_HEADER = 100_000_000

const entry = z.object({ dtype: z.string(), shape: z.array(z.number().int().nonnegative()) })

export interface SafetensorsHeader {
  tensors: { name: string; dtype: string; shape: number[] }[]
}

/** Throws CORRUPT_FILE when the header is not one, IO when the file cannot be read. */
export async function safetensorsHeader(path: string): Promise<SafetensorsHeader> {
  const corrupt = (message: string) => new S2FTError('CORRUPT_FILE', `${path}: ${message}`)
  await using file = await open(path)
  const { size } = await file.stat()
  const prefix = Buffer.alloc(8)
  await file.read(prefix, 0, 8, 0)
  const length = Number(prefix.readBigUInt64LE())
  if (length > Math.min(MAX_HEADER, size - 8)) {
    throw corrupt(`expected a header within the file's ${size} bytes, found a length of ${length}`)
  }
  const text = Buffer.alloc(length)
  await file.read(text, 0, length, 8)
  let header: unknown
  try {
    header = JSON.parse(text.toString('utf8'))
  } catch (cause) {
    throw corrupt(`expected a JSON header: ${(cause as Error).message}`)
  }
  if (typeof header !== 'object' || header === null) throw corrupt('expected a JSON object')
  const tensors = Object.entries(header)
    .filter(([name]) => name !== '__metadata__')
    .map(([name, value]) => {
      const parsed = entry.safeParse(value)
      if (!parsed.success) throw corrupt(`tensor ${name}: expected dtype and shape`)
      return { name, ...parsed.data }
    })
  return { tensors }
}
