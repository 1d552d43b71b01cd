// Reads and checks tensors of adapter files.
import { S2FTError } from '../errors.js'
import { show } from '../model/validate.js'
import type { Tensor } from '../native/binding.js'

function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const fraction = bits & 1023
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY
  if (exponent === 0) return sign * fraction * 2 ** -24
  return sign * (1024 + fraction) * 2 ** (exponent - 25)
}

/** F32 values of an F32, BF16 or F16 tensor. Throws CORRUPT_FILE for I32 and for NaN or infinity. */
export function floatValues(tensor: Tensor, where: string): Float32Array {
  let values: Float32Array
  if (tensor.dtype === 'F32') {
    values = tensor.data as Float32Array
  } else if (tensor.dtype === 'BF16') {
    const widened = new Uint32Array(tensor.data.length)
    for (let i = 0; i < widened.length; i++) widened[i] = tensor.data[i]! << 16
    values = new Float32Array(widened.buffer)
  } else if (tensor.dtype === 'F16') {
    values = Float32Array.from(tensor.data as Uint16Array, halfToFloat)
  } else {
    throw new S2FTError(
      'CORRUPT_FILE',
      `${where}: expected F32, BF16 or F16, found ${tensor.dtype}`,
    )
  }
  const at = values.findIndex((value) => !Number.isFinite(value))
  if (at >= 0) {
    throw new S2FTError(
      'CORRUPT_FILE',
      `${where}[${at}]: expected finite values, found ${values[at]}`,
    )
  }
  return values
}

const float = new Float32Array(1)
const bits = new Uint32Array(float.buffer)

function floatToHalf(value: number): number {
  float[0] = value
  const sign = (bits[0]! >>> 16) & 0x8000
  const magnitude = bits[0]! & 0x7fffffff
  const odd = (magnitude >>> 13) & 1
  const smallestNormal = 0x38800000
  if (magnitude >= smallestNormal) {
    return sign | ((magnitude - (112 << 23) + 0xfff + odd) >>> 13)
  }
  const units = Math.abs(value) * 2 ** 24
  const below = Math.floor(units)
  const up = units - below > 0.5 || (units - below === 0.5 && below % 2 === 1)
  return sign | (up ? below + 1 : below)
}

function floatToBfloat(value: number): number {
  float[0] = value
  return (bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) >>> 16
}

function narrowed(
  values: Float32Array,
  where: string,
  name: string,
  largest: number,
  narrow: (value: number) => number,
): Uint16Array {
  const at = values.findIndex((value) => Math.abs(value) > largest)
  if (at < 0) return Uint16Array.from(values, narrow)
  throw new S2FTError(
    'NOT_FINITE',
    `${where}[${at}]: expected values up to ${largest}, the largest of ${name}, found ${values[at]}`,
  )
}

/** The bits of the nearest F16 values, ties to even. Throws NOT_FINITE beyond 65504. */
export function toFloat16(values: Float32Array, where: string): Uint16Array {
  return narrowed(values, where, 'F16', 65504, floatToHalf)
}

/** The bits of the nearest BF16 values, ties to even. Throws NOT_FINITE beyond its largest. */
export function toBfloat16(values: Float32Array, where: string): Uint16Array {
  return narrowed(values, where, 'BF16', (2 - 2 ** -7) * 2 ** 127, floatToBfloat)
}

/** Distinct indices in [0, limit). Throws CORRUPT_FILE naming the position. */
export function indexValues(tensor: Tensor, where: string, limit = 2 ** 31): Int32Array {
  if (tensor.dtype !== 'I32' || tensor.shape.length !== 1) {
    throw new S2FTError(
      'CORRUPT_FILE',
      `${where}: expected I32 of one dimension, found ${tensor.dtype} ${show(tensor.shape)}`,
    )
  }
  const index = tensor.data as Int32Array
  const seen = new Set<number>()
  for (const [position, value] of index.entries()) {
    if (value < 0 || value >= limit) {
      throw new S2FTError(
        'CORRUPT_FILE',
        `${where}[${position}]: expected an index in [0, ${limit}), found ${value}`,
      )
    }
    if (seen.has(value)) {
      throw new S2FTError(
        'CORRUPT_FILE',
        `${where}[${position}]: expected each index once, found ${value} again`,
      )
    }
    seen.add(value)
  }
  return index
}

/** Ascending places in [0, limit), told apart without a set: masks are large. Throws CORRUPT_FILE. */
export function ascendingPlaces(tensor: Tensor, where: string, limit = 2 ** 31): Int32Array {
  if (tensor.dtype !== 'I32' || tensor.shape.length !== 1) {
    throw new S2FTError(
      'CORRUPT_FILE',
      `${where}: expected I32 of one dimension, found ${tensor.dtype} ${show(tensor.shape)}`,
    )
  }
  const places = tensor.data as Int32Array
  const at = places.findIndex((place, i) => place <= (places[i - 1] ?? -1) || place >= limit)
  if (at < 0) return places
  throw new S2FTError(
    'CORRUPT_FILE',
    `${where}[${at}]: expected ascending places in [0, ${limit}), found ${places[at]}`,
  )
}

export function expectShape(tensor: Tensor, shape: readonly (number | undefined)[], where: string) {
  const fits =
    tensor.shape.length === shape.length &&
    tensor.shape.every((length, axis) => shape[axis] === undefined || shape[axis] === length)
  if (fits) return
  const wanted = shape.map((length) => length ?? 'any').join(', ')
  throw new S2FTError(
    'SHAPE_MISMATCH',
    `${where}: expected shape [${wanted}], found [${tensor.shape.join(', ')}]`,
  )
}
