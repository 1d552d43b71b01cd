// The benchmark's random models are valid checkpoints, the same for the same seed.
import { createHash } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { llamaTensors, writeRandomModel } from '../../lib/bench/random-model.js'
import { shapes } from '../../lib/bench/shapes.js'
import { safetensorsHeader } from '../../lib/cli/safetensors-header.js'
import { parseModelConfig } from '../../lib/model/config.js'
import { temporaryDirectory } from '../support/directories.js'

const small = { ...shapes['llama-1b-4l']!, hidden_size: 32, intermediate_size: 48, vocab_size: 50 }
const shape = { ...small, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2 }
const config = { ...shape, head_dim: 8 }

test.each(['bf16', 'f32'] as const)('%s', async (dtype) => {
  const hashes = []
  for (let i = 0; i < 2; i++) {
    const directory = temporaryDirectory()
    await writeRandomModel(directory, config, dtype, 5)
    const file = join(directory, 'model.safetensors')
    hashes.push(createHash('sha256').update(readFileSync(file)).digest('hex'))
    const { tensors } = await safetensorsHeader(file)
    expect(tensors.map(({ name, shape: dims }) => ({ name, shape: dims }))).toEqual(
      llamaTensors(config),
    )
    const count = tensors.reduce((sum, t) => sum + t.shape.reduce((a, b) => a * b, 1), 0)
    const header = 8 + Number(readFileSync(file).readBigUInt64LE())
    expect(statSync(file).size).toBe(header + count * (dtype === 'bf16' ? 2 : 4))
    const raw = JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8'))
    expect(parseModelConfig(raw, 'config.json').native.headDim).toBe(8)
  }
  expect(hashes[0]).toBe(hashes[1])
})

test('the shape of SmolLM2-135M has its number of weights', () => {
  const tensors = llamaTensors(shapes['smollm2-135m']!)
  expect(tensors.reduce((sum, t) => sum + t.shape.reduce((a, b) => a * b, 1), 0)).toBe(134515008)
})
