// Reads and writes safetensors files without the code under test.
import { readFileSync, writeFileSync } from 'node:fs'

/** A tensor as it lies in the file. */
export interface RawTensor {
  dtype: string
  shape: number[]
  bytes: Uint8Array
}

/** Every tensor of a file, in the order of its header. Bytes are copies, aligned for any view. */
export function readSafetensors(path: string): Map<string, RawTensor> {
  const file = readFileSync(path)
  const headerBytes = Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.toString('utf8', 8, 8 + headerBytes))
  const tensors = new Map<string, RawTensor>()
  for (const [name, entry] of Object.entries<Record<string, unknown>>(header)) {
    if (name === '__metadata__') continue
    const { dtype, shape, data_offsets } = entry as {
      dtype: string
      shape: number[]
      data_offsets: [number, number]
    }
    const start = 8 + headerBytes
    const bytes = new Uint8Array(
      file.subarray(start + data_offsets[0], start + data_offsets[1]),
    ).slice()
    tensors.set(name, { dtype, shape, bytes })
  }
  return tensors
}

/** Writes tensors back to back in the map's order, little-endian as they are. */
export function writeSafetensors(path: string, tensors: Map<string, RawTensor>): void {
  let end = 0
  const header: Record<string, unknown> = {}
  for (const [name, { dtype, shape, bytes }] of tensors) {
    header[name] = { dtype, shape, data_offsets: [end, (end += bytes.length)] }
  }
  const text = JSON.stringify(header)
  const padded = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8, ' '))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(padded.length))
  writeFileSync(path, Buffer.concat([length, padded, ...[...tensors.values()].map((t) => t.bytes)]))
}

/** The values of an F32, F16, BF16 or I32 tensor as plain floats. */
export function valuesOf({ dtype, bytes }: RawTensor): Float32Array {
  if (dtype === 'F32') return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
  if (dtype === 'I32') {
    return Float32Array.from(new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4))
  }
  const bits = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2)
  if (dtype === 'BF16') {
    return new Float32Array(Uint32Array.from(bits, (b) => b << 16).buffer)
  }
  if (dtype === 'F16') return Float32Array.from(bits, halfToFloat)
  throw new Error(`test reader: unknown dtype ${dtype}`)
}

function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const fraction = bits & 1023
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY
  if (exponent === 0) return sign * fraction * 2 ** -24
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}
