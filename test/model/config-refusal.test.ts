// Configurations that the engine cannot run right are refused, and the message says why.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { copyModel } from '../support/directories.js'
import { loadRefusal as refusal } from '../support/rejection.js'

type Config = Record<string, unknown>
type Case = { what: string; model?: string; config: Config; code: string; says: RegExp[] }

const refusedConfigs: Case[] = [
  {
    what: 'an unknown architecture',
    config: { model_type: 'gpt2', architectures: ['GPT2LMHeadModel'] },
    code: 'UNSUPPORTED_MODEL',
    says: [/gpt2/i],
  },
  {
    what: 'an unknown activation',
    config: { hidden_act: 'gelu_new' },
    code: 'UNSUPPORTED_MODEL',
    says: [/hidden_act/, /gelu_new/, /silu/],
  },
  {
    what: 'an unsupported rope type in rope_parameters',
    config: { rope_parameters: { rope_type: 'yarn', rope_theta: 10000, factor: 4 } },
    code: 'UNSUPPORTED_MODEL',
    says: [/rope_type/, /yarn/],
  },
  {
    what: 'an unsupported rope type in rope_scaling',
    config: { rope_parameters: undefined, rope_scaling: { type: 'longrope', factor: 4 } },
    code: 'UNSUPPORTED_MODEL',
    says: [/longrope/],
  },
  {
    what: 'rotary embedding of a part of the head',
    config: { partial_rotary_factor: 0.5 },
    code: 'UNSUPPORTED_MODEL',
    says: [/partial_rotary_factor/, /0\.5/],
  },
  {
    what: 'quantized weights',
    config: { quantization_config: { quant_method: 'gptq', bits: 4 } },
    code: 'UNSUPPORTED_MODEL',
    says: [/quantization_config|quant_method/, /gptq/],
  },
  {
    what: 'linear scaling without a factor',
    config: { rope_parameters: { rope_type: 'linear', rope_theta: 10000 } },
    code: 'INVALID_CONFIG',
    says: [/factor/],
  },
  {
    what: 'llama3 scaling without its frequencies',
    config: { rope_parameters: { rope_type: 'llama3', rope_theta: 10000, factor: 8 } },
    code: 'INVALID_CONFIG',
    says: [/low_freq_factor|high_freq_factor|original_max_position_embeddings/],
  },
  {
    what: 'query heads that key/value heads do not divide',
    config: { num_key_value_heads: 3 },
    code: 'INVALID_CONFIG',
    says: [/num_key_value_heads/, /3/, /num_attention_heads/, /4/],
  },
  {
    what: 'a head size that cannot be rotated',
    model: 'llama-explicit-head-dim',
    config: { head_dim: 5 },
    code: 'INVALID_CONFIG',
    says: [/head_dim/, /5/],
  },
  {
    what: 'a field of the wrong type',
    config: { num_hidden_layers: '2' },
    code: 'INVALID_CONFIG',
    says: [/num_hidden_layers/],
  },
  {
    what: 'a size that is not positive',
    config: { intermediate_size: 0 },
    code: 'INVALID_CONFIG',
    says: [/intermediate_size/],
  },
  {
    what: 'a size that is not whole',
    config: { vocab_size: 67.5 },
    code: 'INVALID_CONFIG',
    says: [/vocab_size/],
  },
]

describe('a configuration is refused for', () => {
  test.each(refusedConfigs.map((it) => [it.what, it] as const))(
    '%s',
    async (_, { model = 'llama-gqa', config, code, says }) => {
      const directory = copyModel(model, { config: (written) => Object.assign(written, config) })
      const error = await refusal(directory)
      expect(error.code).toBe(code)
      for (const words of says) expect(error.message).toMatch(words)
    },
  )

  test('not being JSON', async () => {
    const directory = copyModel('llama-gqa')
    writeFileSync(join(directory, 'config.json'), '{"model_type": "llama",')
    const error = await refusal(directory)
    expect(error.code).toBe('INVALID_CONFIG')
    expect(error.message).toMatch(/config\.json/)
  })
})
