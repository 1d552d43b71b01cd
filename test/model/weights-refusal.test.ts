// Weights that are missing, broken or do not fit their configuration are refused by name.
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { Model } from '../../lib/index.js'
import { copyModel } from '../support/directories.js'
import { errorOfLargest, expectedTensor, loadGolden } from '../support/golden.js'
import { loadRefusal as refusal } from '../support/rejection.js'
import type { RawTensor } from '../support/safetensors.js'

type Config = Record<string, unknown>

describe('a configuration that does not fit the weights', () => {
  const misfits: { config: Config; tensor: RegExp; wanted: RegExp; found: RegExp }[] = [
    {
      config: { intermediate_size: 54 },
      tensor: /model\.layers\.0\.mlp\.(gate|up|down)_proj\.weight/,
      wanted: /54\D{1,4}32|32\D{1,4}54/,
      found: /53\D{1,4}32|32\D{1,4}53/,
    },
    {
      config: { vocab_size: 68 },
      tensor: /model\.embed_tokens\.weight|lm_head\.weight/,
      wanted: /68\D{1,4}32/,
      found: /67\D{1,4}32/,
    },
    {
      config: { num_key_value_heads: 4 },
      tensor: /model\.layers\.0\.self_attn\.[kv]_proj\.weight/,
      wanted: /32\D{1,4}32/,
      found: /16\D{1,4}32/,
    },
    {
      // As in transformers, an absent hidden_size means 4096.
      config: { hidden_size: undefined },
      tensor: /model\.\S+\.weight|lm_head\.weight/,
      wanted: /4096/,
      found: /\b32\b/,
    },
    {
      config: { head_dim: 16 },
      tensor: /model\.layers\.0\.self_attn\.[qkvo]_proj\.weight/,
      wanted: /64\D{1,4}32|32\D{1,4}64/,
      found: /32\D{1,4}32|16\D{1,4}32/,
    },
  ]
  test.each(misfits)('$config', async ({ config, tensor, wanted, found }) => {
    const directory = copyModel('llama-gqa', { config: (it) => Object.assign(it, config) })
    const error = await refusal(directory)
    expect(error.code).toBe('SHAPE_MISMATCH')
    for (const words of [tensor, wanted, found]) expect(error.message).toMatch(words)
  })

  const absent: [string, string, Config, RegExp][] = [
    ['llama-gqa', 'more layers', { num_hidden_layers: 3 }, /model\.layers\.2\./],
    ['llama-gqa', 'biases', { attention_bias: true }, /model\.layers\.0\.self_attn\.\w_proj\.bias/],
    ['llama-tied', 'a head of its own', { tie_word_embeddings: false }, /lm_head\.weight/],
    [
      'llama-gqa',
      'norms of q and k',
      { model_type: 'qwen3', architectures: ['Qwen3ForCausalLM'] },
      /model\.layers\.0\.self_attn\.[qk]_norm\.weight/,
    ],
  ]
  test.each(absent)('%s: %s than the checkpoint has', async (name, _, config, tensor) => {
    const directory = copyModel(name, { config: (it) => Object.assign(it, config) })
    expect((await refusal(directory)).message).toMatch(tensor)
  })

  // Running without a bias or a norm that the checkpoint holds would be wrong in silence.
  const ignored: [string, Config, RegExp][] = [
    ['llama-biases', { attention_bias: false }, /model\.layers\.0\.self_attn\.\w_proj\.bias/],
    ['llama-biases', { mlp_bias: false }, /model\.layers\.0\.mlp\.\w+_proj\.bias/],
    ['llama-gqa', { num_hidden_layers: 1 }, /model\.layers\.1\./],
  ]
  test.each(ignored)('%s: %o leaves weights unused', async (name, config, tensor) => {
    const directory = copyModel(name, { config: (it) => Object.assign(it, config) })
    expect((await refusal(directory)).message).toMatch(tensor)
  })
})

describe('weights are refused for', () => {
  type Change = (tensors: Map<string, RawTensor>) => void
  const norm = 'model.layers.1.post_attention_layernorm.weight'
  const changes: [string, string, Change][] = [
    ['a missing tensor', norm, (tensors) => tensors.delete(norm)],
    [
      'an element type that is not a float',
      norm,
      (tensors) => tensors.set(norm, { ...tensors.get(norm)!, dtype: 'I32' }),
    ],
    [
      'a tensor of another rank',
      norm,
      (tensors) => tensors.set(norm, { ...tensors.get(norm)!, shape: [32, 1] }),
    ],
  ]
  test.each(changes)('%s', async (_, tensor, change) => {
    const error = await refusal(copyModel('llama-gqa', { tensors: change }))
    expect(error.message).toContain(tensor)
  })

  test('a file that ends too early', async () => {
    const directory = copyModel('llama-gqa')
    const path = join(directory, 'model.safetensors')
    writeFileSync(path, readFileSync(path).subarray(0, -4))
    const error = await refusal(directory)
    expect(error.code).toBe('CORRUPT_FILE')
    expect(error.message).toContain('model.safetensors')
  })

  test('a header longer than the file', async () => {
    const directory = copyModel('llama-gqa')
    const path = join(directory, 'model.safetensors')
    const bytes = readFileSync(path)
    bytes.writeBigUInt64LE(2n ** 63n, 0)
    writeFileSync(path, bytes)
    expect((await refusal(directory)).code).toBe('CORRUPT_FILE')
  })

  test('an empty file', async () => {
    const directory = copyModel('llama-gqa')
    writeFileSync(join(directory, 'model.safetensors'), '')
    expect((await refusal(directory)).code).toBe('CORRUPT_FILE')
  })

  test.each([
    ['llama-gqa', 'config.json'],
    ['llama-gqa', 'model.safetensors'],
    ['llama-sharded', 'model-00002-of-00003.safetensors'],
  ])('%s without %s', async (name, file) => {
    const directory = copyModel(name)
    rmSync(join(directory, file))
    const error = await refusal(directory)
    expect(error.code).toBe('IO')
    expect(error.message).toContain(file)
  })

  test('an index that leads out of the directory', async () => {
    const directory = copyModel('llama-sharded')
    const path = join(directory, 'model.safetensors.index.json')
    const text = readFileSync(path, 'utf8')
    writeFileSync(path, text.replaceAll('model-00002', '../model-00002'))
    const error = await refusal(directory)
    expect(error.code).toBe('CORRUPT_FILE')
    expect(error.message).toContain('../model-00002-of-00003.safetensors')
  })
})

describe('what real checkpoints carry along is accepted:', () => {
  const extras: [string, string, (tensors: Map<string, RawTensor>) => void][] = [
    [
      'llama-gqa',
      'model.layers.0.self_attn.rotary_emb.inv_freq',
      (tensors) =>
        tensors.set('model.layers.0.self_attn.rotary_emb.inv_freq', {
          dtype: 'F32',
          shape: [4],
          bytes: new Uint8Array(16),
        }),
    ],
    [
      'llama-tied',
      'lm_head.weight, a copy of the embedding',
      (tensors) => tensors.set('lm_head.weight', tensors.get('model.embed_tokens.weight')!),
    ],
  ]
  test.each(extras)('%s: %s', async (name, _, change) => {
    const golden = loadGolden(name)
    const model = await Model.load(copyModel(name, { tensors: change }), {
      device: 'cpu',
      dtype: 'f32',
    })
    try {
      const logits = await model.logits(golden.sequences[1]!)
      expect(errorOfLargest(logits, expectedTensor(golden, 'logits.7').values)).toBeLessThan(1e-5)
    } finally {
      await model.dispose()
    }
  })
})
