// GGUF files, version 3: key-value pairs, tensor descriptions, then the tensors' bytes, aligned.
// Writes those that adapters need; reads the head of any, without trusting it.
import { open } from 'node:fs/promises'
import { S2FTError } from '../errors.js'

const MAGIC = 'GGUF'
const VERSION = 3
const ALIGNMENT = 32
/** More than the vocabulary of any model takes. */
const MAX_HEAD = 256 * 1024 * 1024

/** Numbers of ggml's element types, and the bytes of one element. */
export const GGUF_DTYPES = {
  F32: { id: 0, width: 4 },
  F16: { id: 1, width: 2 },
  BF16: { id: 30, width: 2 },
} as const
export type GgufDType = keyof typeof GGUF_DTYPES

const STRING = 8
const ARRAY = 9
/** Fixed-width value types by their number: name, width and reader. */
const SCALARS: Record<number, [string, number, (b: Buffer, at: number) => GgufValue]> = {
  0: ['u8', 1, (b, at) => b.readUInt8(at)],
  1: ['i8', 1, (b, at) => b.readInt8(at)],
  2: ['u16', 2, (b, at) => b.readUInt16LE(at)],
  3: ['i16', 2, (b, at) => b.readInt16LE(at)],
  4: ['u32', 4, (b, at) => b.readUInt32LE(at)],
  5: ['i32', 4, (b, at) => b.readInt32LE(at)],
  6: ['f32', 4, (b, at) => b.readFloatLE(at)],
  7: ['bool', 1, (b, at) => b.readUInt8(at) !== 0],
  10: ['u64', 8, (b, at) => Number(b.readBigUInt64LE(at))],
  11: ['i64', 8, (b, at) => Number(b.readBigInt64LE(at))],
  12: ['f64', 8, (b, at) => b.readDoubleLE(at)],
}

export type GgufValue = string | number | boolean
/** What is written: text, u32 or f32. */
export type GgufEntry = [key: string, value: string | { u32: number } | { f32: number }]

export interface GgufTensor {
  name: string
  dtype: GgufDType
  /** [rows, cols], row after row. */
  shape: number[]
  /** The elements as they lie in the file, little-endian. */
  data: Float32Array | Uint16Array
}

export interface GgufHead {
  version: number
  /** Arrays are told by their length only. */
  metadata: Map<string, GgufValue | { length: number }>
  tensors: { name: string; type: number; shape: number[]; offset: number }[]
  /** Where the tensors' bytes begin. */
  dataStart: number
}

const aligned = (n: number) => Math.ceil(n / ALIGNMENT) * ALIGNMENT

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value, 'utf8')
  return Buffer.concat([u64(bytes.length), bytes])
}

function entryBytes([key, value]: GgufEntry): Buffer[] {
  if (typeof value === 'string') return [text(key), u32(STRING), text(value)]
  if ('u32' in value) return [text(key), u32(4), u32(value.u32)]
  const float = Buffer.alloc(4)
  float.writeFloatLE(value.f32)
  return [text(key), u32(6), float]
}

/** Writes a whole file, replacing one that is there. Throws what the file system throws. */
export async function writeGguf(
  path: string,
  entries: readonly GgufEntry[],
  tensors: readonly GgufTensor[],
): Promise<void> {
  let offset = 0
  const head = [Buffer.from(MAGIC), u32(VERSION), u64(tensors.length), u64(entries.length)]
  for (const entry of entries) head.push(...entryBytes(entry))
  for (const { name, dtype, shape, data } of tensors) {
    const sizes = [...shape].reverse().map(u64)
    head.push(text(name), u32(shape.length), ...sizes, u32(GGUF_DTYPES[dtype].id), u64(offset))
    offset += aligned(data.byteLength)
  }
  await using file = await open(path, 'w')
  const write = async (bytes: Uint8Array) => {
    await file.writeFile(bytes)
    await file.writeFile(Buffer.alloc(aligned(bytes.byteLength) - bytes.byteLength))
  }
  await write(Buffer.concat(head))
  for (const { data } of tensors) {
    await write(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
  }
}

/** Reads forward through the head; every step is checked against its end. */
class Cursor {
  at = 0
  constructor(
    private readonly bytes: Buffer,
    private readonly path: string,
  ) {}

  corrupt(message: string): S2FTError {
    return new S2FTError('CORRUPT_FILE', `${this.path}: ${message}`)
  }

  private take(count: number): number {
    const at = this.at
    if (!(count <= this.bytes.length - at)) {
      throw this.corrupt(
        `expected ${count} bytes of header at ${at}, found ${this.bytes.length - at}`,
      )
    }
    this.at += count
    return at
  }

  u32(): number {
    return this.bytes.readUInt32LE(this.take(4))
  }

  count(): number {
    const value = this.bytes.readBigUInt64LE(this.take(8))
    if (value <= Number.MAX_SAFE_INTEGER) return Number(value)
    throw this.corrupt(`expected a count at ${this.at - 8}, found ${value}`)
  }

  text(): string {
    const length = this.count()
    const at = this.take(length)
    return this.bytes.toString('utf8', at, at + length)
  }

  value(type = this.u32()): GgufValue | { length: number } {
    const scalar = SCALARS[type]
    if (scalar) return scalar[2](this.bytes, this.take(scalar[1]))
    if (type === STRING) return this.text()
    if (type !== ARRAY) throw this.corrupt(`expected a value type up to 12, found ${type}`)
    const inner = this.u32()
    const length = this.count()
    const fixed = SCALARS[inner]
    if (fixed) this.take(length * fixed[1])
    else if (inner !== STRING) throw this.corrupt(`expected arrays of plain values, found ${inner}`)
    else for (let i = 0; i < length; i++) this.text()
    return { length }
  }
}

/** The head of a GGUF file. Throws CORRUPT_FILE naming what is wrong, UNSUPPORTED for old versions. */
export async function readGgufHead(path: string): Promise<GgufHead> {
  await using file = await open(path)
  const { size } = await file.stat()
  const bytes = Buffer.alloc(Math.min(size, MAX_HEAD))
  await file.read(bytes, 0, bytes.length, 0)
  const cursor = new Cursor(bytes, path)
  if (bytes.toString('latin1', 0, 4) !== MAGIC) {
    throw cursor.corrupt('expected a GGUF file, found another beginning')
  }
  cursor.at = 4
  const version = cursor.u32()
  if (version !== 2 && version !== VERSION) {
    throw new S2FTError('UNSUPPORTED', `${path}: expected GGUF version 2 or 3, found ${version}`)
  }
  const tensorCount = cursor.count()
  const entryCount = cursor.count()
  const metadata: GgufHead['metadata'] = new Map()
  for (let i = 0; i < entryCount; i++) {
    const key = cursor.text()
    if (metadata.has(key)) throw cursor.corrupt(`expected each key once, found ${key} again`)
    metadata.set(key, cursor.value())
  }
  const tensors: GgufHead['tensors'] = []
  for (let i = 0; i < tensorCount; i++) {
    const name = cursor.text()
    const dimensions = cursor.u32()
    if (dimensions > 4) {
      throw cursor.corrupt(`tensor ${name}: expected up to 4 dimensions, found ${dimensions}`)
    }
    const shape = Array.from({ length: dimensions }, () => cursor.count()).reverse()
    tensors.push({ name, type: cursor.u32(), shape, offset: cursor.count() })
  }
  const alignment = metadata.get('general.alignment') ?? ALIGNMENT
  if (typeof alignment !== 'number' || !(alignment > 0)) {
    throw cursor.corrupt('general.alignment: expected a positive number')
  }
  const dataStart = Math.ceil(cursor.at / alignment) * alignment
  for (const { name, type, shape, offset } of tensors) {
    const dtype = Object.values(GGUF_DTYPES).find(({ id }) => id === type)
    const length = dtype ? shape.reduce((a, b) => a * b, dtype.width) : 0
    if (dataStart + offset + length <= size) continue
    throw cursor.corrupt(`tensor ${name}: expected its data within ${size} bytes, found it beyond`)
  }
  return { version, metadata, tensors, dataStart }
}
