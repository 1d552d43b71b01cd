// Relative error that quantizing a checkpoint's linear weights makes, |q(W) - W| / |W| over all of
// them: why int8 has a scale for each block (docs/quantization.md).
//   node bench/quantization-error.mjs MODEL_DIRECTORY
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { native } from '../dist/native/load.js'

const NF4 = [
  -1, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0, 0.0795803,
  0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1,
]
const borders = NF4.slice(1).map((level, i) => (level + NF4[i]) / 2)

const int8 = (x, largest) => (Math.round((x / largest) * 127) / 127) * largest
function nf4(x, largest) {
  const at = borders.findIndex((border) => x / largest <= border)
  return NF4[at < 0 ? 15 : at] * largest
}

/** Sum of squared errors when runs of `length` values share a scale. */
function squaredError(values, length, round) {
  let sum = 0
  for (let begin = 0; begin < values.length; begin += length) {
    const end = Math.min(begin + length, values.length)
    let largest = 0
    for (let i = begin; i < end; i++) largest = Math.max(largest, Math.abs(values[i]))
    if (largest === 0) continue
    for (let i = begin; i < end; i++) sum += (round(values[i], largest) - values[i]) ** 2
  }
  return sum
}

const directory = process.argv[2]
if (!directory) throw new Error('usage: node bench/quantization-error.mjs MODEL_DIRECTORY')
const errors = { 'int8, a scale a row': 0, 'int8, a scale a block of 64': 0, nf4: 0 }
const [rows, blocks, four] = Object.keys(errors)
let size = 0
for (const file of readdirSync(directory).filter((name) => /^model.*\.safetensors$/.test(name))) {
  const { tensors } = await native().readSafetensors(join(directory, file))
  for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
    if (!/layers\.\d+\..*_proj\.weight$/.test(name)) continue
    if (dtype === 'F16') throw new Error(`${name}: expected F32 or BF16, found F16`)
    const bits = dtype === 'BF16' && Uint32Array.from(data, (half) => half << 16)
    const values = bits ? new Float32Array(bits.buffer) : data
    for (const x of values) size += x * x
    errors[rows] += squaredError(values, shape[1], int8)
    errors[blocks] += squaredError(values, 64, int8)
    errors[four] += squaredError(values, 64, nf4)
  }
}
for (const [how, sum] of Object.entries(errors)) {
  console.log(`${how}: ${(100 * Math.sqrt(sum / size)).toFixed(2)} %`)
}
