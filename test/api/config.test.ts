// config.json to the engine's configuration: families, spellings, defaults, refusals.
import { describe, expect, test } from 'vitest'
import { S2FTError } from '../../lib/errors.js'
import { parseModelConfig } from '../../lib/model/config.js'

const llama = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  vocab_size: 100,
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
}
const of = (changes: object) => parseModelConfig({ ...llama, ...changes }, 'config.json').native
const family = (name: string, changes: object = {}) =>
  of({ architectures: [`${name}ForCausalLM`], model_type: name.toLowerCase(), ...changes })

describe('values', () => {
  test.each<[string, object, object]>([
    [
      'llama defaults',
      {},
      { kvHeads: 4, headDim: 16, normEpsilon: 1e-6, tieWordEmbeddings: false },
    ],
    ['null kv heads', { num_key_value_heads: null }, { kvHeads: 4 }],
    ['grouped queries', { num_key_value_heads: 2 }, { kvHeads: 2 }],
    ['explicit head size', { head_dim: 10 }, { headDim: 10 }],
    ['null head size', { head_dim: null }, { headDim: 16 }],
    ['attention bias', { attention_bias: true }, { qkvBias: true, oBias: true, mlpBias: false }],
    ['mlp bias', { mlp_bias: true }, { qkvBias: false, oBias: false, mlpBias: true }],
    ['llama has no window', { sliding_window: 8 }, { slidingWindow: [0, 0] }],
    ['theta outside', { rope_theta: 500 }, { rope: expect.objectContaining({ theta: 500 }) }],
    ['default theta', {}, { rope: expect.objectContaining({ theta: 10_000, type: 'default' }) }],
    [
      'theta inside',
      { rope_parameters: { rope_type: 'default', rope_theta: 7 } },
      { rope: expect.objectContaining({ theta: 7 }) },
    ],
    [
      'old linear',
      { rope_theta: 500, rope_scaling: { type: 'linear', factor: 2.5 } },
      { rope: expect.objectContaining({ type: 'linear', theta: 500, factor: 2.5 }) },
    ],
    [
      'dynamic',
      { max_position_embeddings: 16, rope_parameters: { rope_type: 'dynamic', factor: 3 } },
      { rope: expect.objectContaining({ type: 'dynamic', factor: 3, originalMaxPositions: 16 }) },
    ],
    [
      'llama3',
      {
        max_position_embeddings: 256,
        rope_scaling: {
          rope_type: 'llama3',
          factor: 8,
          low_freq_factor: 1,
          high_freq_factor: 4,
          original_max_position_embeddings: 32,
        },
      },
      {
        rope: {
          type: 'llama3',
          theta: 10_000,
          factor: 8,
          lowFreqFactor: 1,
          highFreqFactor: 4,
          originalMaxPositions: 32,
        },
      },
    ],
    ['empty rope_scaling', { rope_scaling: {} }, { rope: expect.objectContaining({ factor: 1 }) }],
  ])('%s', (_, changes, expected) => expect(of(changes)).toMatchObject(expected))

  test.each<[string, string, object, object]>([
    ['Mistral default', 'Mistral', { num_attention_heads: 8 }, { kvHeads: 8 }],
    ['Mistral window', 'Mistral', { num_key_value_heads: 2 }, { slidingWindow: [4096, 4096] }],
    [
      'Mistral without',
      'Mistral',
      { num_key_value_heads: 2, sliding_window: null },
      { slidingWindow: [0, 0] },
    ],
    [
      'Qwen2 biases',
      'Qwen2',
      { num_key_value_heads: 2 },
      { qkvBias: true, oBias: false, slidingWindow: [0, 0], qkNorm: false },
    ],
    [
      'Qwen2 window by layer number',
      'Qwen2',
      { num_key_value_heads: 2, use_sliding_window: true, sliding_window: 5, max_window_layers: 1 },
      { slidingWindow: [0, 5] },
    ],
    [
      'Qwen2 window by layer type',
      'Qwen2',
      {
        num_key_value_heads: 2,
        use_sliding_window: true,
        sliding_window: 5,
        layer_types: ['sliding_attention', 'full_attention'],
      },
      { slidingWindow: [5, 0] },
    ],
    [
      'Qwen3 norms and head size',
      'Qwen3',
      { num_key_value_heads: 2 },
      { qkNorm: true, headDim: 128, qkvBias: false, oBias: false },
    ],
    [
      'Qwen3 attention bias',
      'Qwen3',
      { num_key_value_heads: 2, attention_bias: true },
      { qkvBias: true, oBias: true },
    ],
  ])('%s', (_, name, changes, expected) => expect(family(name, changes)).toMatchObject(expected))

  test('an architecture alone, or a model_type alone, is enough', () => {
    expect(of({ model_type: undefined }).layers).toBe(2)
    expect(of({ architectures: undefined }).layers).toBe(2)
  })

  test('end tokens: a number, a list, null, absent', () => {
    const ends = (changes: object) => parseModelConfig({ ...llama, ...changes }, 'f').eosTokenIds
    expect(ends({ eos_token_id: 7 })).toEqual([7])
    expect(ends({ eos_token_id: [7, 8] })).toEqual([7, 8])
    expect(ends({ eos_token_id: null })).toEqual([])
    expect(ends({})).toEqual([2])
  })
})

describe('refusals name file, field, expected and found', () => {
  const llama3 = { rope_type: 'llama3', factor: 8, low_freq_factor: 4, high_freq_factor: 4 }
  test.each<[string, object, string, RegExp]>([
    ['another family', { architectures: ['GPT2LMHeadModel'] }, 'UNSUPPORTED_MODEL', /GPT2/],
    ['another type', { model_type: 'gemma' }, 'UNSUPPORTED_MODEL', /model_type.*"gemma"/],
    ['two families', { model_type: 'qwen2' }, 'UNSUPPORTED_MODEL', /model_type.*llama.*"qwen2"/],
    ['activation', { hidden_act: 'gelu' }, 'UNSUPPORTED_MODEL', /hidden_act.*"silu".*"gelu"/],
    ['quantized', { quantization_config: { bits: 4 } }, 'UNSUPPORTED_MODEL', /quantization_config/],
    ['yarn', { rope_scaling: { type: 'yarn', factor: 2 } }, 'UNSUPPORTED_MODEL', /type.*"yarn"/],
    ['longrope', { rope_parameters: { rope_type: 'longrope' } }, 'UNSUPPORTED_MODEL', /longrope/],
    ['mrope', { rope_scaling: { type: 'mrope' } }, 'UNSUPPORTED_MODEL', /mrope/],
    ['partial', { partial_rotary_factor: 0.5 }, 'UNSUPPORTED_MODEL', /partial_rotary_factor.*0.5/],
    [
      'partial inside',
      { rope_parameters: { partial_rotary_factor: 0.5 } },
      'UNSUPPORTED_MODEL',
      /rope_parameters\.partial_rotary_factor: expected 1, found 0.5/,
    ],
    ['linear without factor', { rope_scaling: { type: 'linear' } }, 'INVALID_CONFIG', /factor/],
    ['llama3 factors', { rope_scaling: llama3 }, 'INVALID_CONFIG', /high_freq_factor.*more than/],
    ['heads', { num_key_value_heads: 3 }, 'INVALID_CONFIG', /multiple of.*\(3\), found 4/],
    ['hidden', { hidden_size: 66 }, 'INVALID_CONFIG', /hidden_size: expected a multiple.*found 66/],
    ['odd head', { head_dim: 7 }, 'INVALID_CONFIG', /head_dim.*found 7/],
    ['text', { hidden_size: '64' }, 'INVALID_CONFIG', /config.json: hidden_size.*found "64"/],
    ['negative', { vocab_size: -1 }, 'INVALID_CONFIG', /vocab_size.*found -1/],
    ['huge', { vocab_size: 1e12 }, 'INVALID_CONFIG', /vocab_size/],
    ['no layers', { num_hidden_layers: 0 }, 'INVALID_CONFIG', /num_hidden_layers.*found 0/],
  ])('%s', (_, changes, code, message) => {
    let error: unknown
    try {
      of(changes)
    } catch (thrown) {
      error = thrown
    }
    expect(error).toBeInstanceOf(S2FTError)
    expect((error as S2FTError).code).toBe(code)
    expect((error as S2FTError).message).toMatch(message)
    expect((error as S2FTError).message).toMatch(/^config\.json: /)
  })

  test.each([null, 3, 'x', [], {}])('%j is not a configuration', (value) => {
    expect(() => parseModelConfig(value, 'config.json')).toThrow(S2FTError)
  })
})
