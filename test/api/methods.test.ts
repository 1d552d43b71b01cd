// Methods and schedules: rounding, budgets, selections, names, and Hugging Face's numbers.
import { describe, expect, test } from 'vitest'
import { dora, galore, lisa, lora, s2ft, sparse } from '../../lib/index.js'
import { resolveMethod, targetModules } from '../../lib/method/index.js'
import { loraSize } from '../../lib/method/resolve-s2ft.js'
import { parseModelConfig } from '../../lib/model/config.js'
import { unitSize } from '../../lib/model/modules.js'
import { learningRateAt, warmupSteps } from '../../lib/trainer/schedule.js'
import { rejection } from '../support/rejection.js'

const config = parseModelConfig(
  {
    architectures: ['LlamaForCausalLM'],
    vocab_size: 49152,
    hidden_size: 576,
    intermediate_size: 1536,
    num_hidden_layers: 3,
    num_attention_heads: 9,
    num_key_value_heads: 3,
  },
  'config.json',
).native

describe('s2ft', () => {
  test('shares become the nearest whole number of units, at least one', () => {
    const method = s2ft({ ratios: { q: 0.3, k: 0.01, gate: 0, down: 0.03 }, seed: 7 })
    const counts = { q: 3, k: 1, down: 46 }
    const expected = {
      kind: 's2ft',
      seed: 7,
      counts: [counts, counts, counts],
      selection: 'random',
      order: 'largest',
    }
    expect(resolveMethod(method, config)).toEqual(expected)
  })

  test('the default trains o and down', () => {
    const counts = { o: 1, down: 46 }
    expect(resolveMethod(s2ft(), config)).toMatchObject({
      seed: 0,
      counts: [counts, counts, counts],
    })
  })

  test.each([1, 8, 16, 64])('a budget of LoRA rank %i is met to half a channel', (loraRank) => {
    const method = resolveMethod(s2ft({ budget: { loraRank } }), config)
    if (method.kind !== 's2ft' || !('counts' in method)) throw new Error('expected counts')
    const { o = 0, down = 0 } = method.counts[0]!
    const channel = unitSize(config, 'down')
    const spent = o * unitSize(config, 'o') + down * channel
    expect(Math.abs(spent - loraSize(config, loraRank))).toBeLessThanOrEqual(channel / 2)
  })

  test.each<[string, Parameters<typeof s2ft>[0]]>([
    ['one for all layers', { select: { down: [4, 1] } }],
    ['one a layer', { select: [{ down: [4, 1] }, { down: [4, 1] }, { down: [4, 1] }] }],
    [
      'lists a module',
      {
        select: {
          down: [
            [4, 1],
            [4, 1],
            [4, 1],
          ],
        },
      },
    ],
  ])('an explicit selection: %s', (_, options) => {
    const layer = { down: [4, 1] }
    expect(resolveMethod(s2ft(options), config)).toMatchObject({ select: [layer, layer, layer] })
  })

  test.each<[RegExp, Parameters<typeof s2ft>[0] | object]>([
    [/unknown key "ratio"/, { ratio: {} }],
    [/ratios: unknown key "qkv"/, { ratios: { qkv: 1 } }],
    [/ratios\.q.*found 2/, { ratios: { q: 2 } }],
    [/at least one share above 0/, { ratios: { q: 0 } }],
    [/one of ratios, select, budget/, { ratios: { q: 1 }, budget: { loraRank: 2 } }],
    [/seed.*found -1/, { seed: -1 }],
  ])('%s', async (message, options) => {
    const error = await rejection(() => s2ft(options as object))
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toMatch(message)
  })

  test.each<[RegExp, NonNullable<Parameters<typeof s2ft>[0]>['select'] & object]>([
    [/select\.q of layer 0.*\[0, 9\), found 9/, { q: [9] }],
    [/select\.k of layer 0.*\[0, 3\), found 3/, { k: [3] }],
    [/each unit once/, { down: [1, 1] }],
    [/expected 3 lists/, { down: [[1]] }],
    [/expected 3 entries/, [{ down: [1] }]],
    [/at least one unit/, { down: [] }],
  ])('selection: %s', async (message, select) => {
    const error = await rejection(() => resolveMethod(s2ft({ select }), config))
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toMatch(message)
  })
})

describe('lora', () => {
  test('names: all, short, long', () => {
    const named = (targets: 'all-linear' | string[]) =>
      targetModules(config, lora({ targetModules: targets }))
    expect(named('all-linear')).toHaveLength(21)
    expect(named(['q_proj', 'v'])).toHaveLength(6)
    expect(named(['model.layers.2.mlp.up_proj'])).toHaveLength(1)
  })

  test.each(['lm_head', 'model.layers.3.mlp.up_proj', 'model.layers.0.mlp.q_proj'])(
    '%s is refused',
    async (name) => {
      const method = lora({ targetModules: [name] })
      const error = await rejection(() => resolveMethod(method, config))
      expect(error.message).toContain(name)
    },
  )
})

describe.each([lora, dora])('%o', (method) => {
  test('ranks and scales of single modules', () => {
    const options = { r: 4, alpha: 8, rslora: true, targetModules: ['q', 'down'] }
    const patterns = { rankPattern: { down: 16, 'layers.1.self_attn.q_proj': 9 } }
    const resolved = resolveMethod(
      method({ ...options, ...patterns, alphaPattern: { q: 3 } }),
      config,
    )
    if (!('modules' in resolved)) throw new Error('expected modules')
    const found = resolved.modules.map(({ name, r, scale }) => [name.slice(13), r, scale])
    expect(found).toEqual([
      ['0.self_attn.q_proj', 4, 3 / 2],
      ['0.mlp.down_proj', 16, 8 / 4],
      ['1.self_attn.q_proj', 9, 3 / 3],
      ['1.mlp.down_proj', 16, 8 / 4],
      ['2.self_attn.q_proj', 4, 3 / 2],
      ['2.mlp.down_proj', 16, 8 / 4],
    ])
  })

  test.each<[RegExp, object]>([
    [/rankPattern.*found 0/, { rankPattern: { q: 0 } }],
    [/alphaPattern.*expected module names/, { alphaPattern: { '(a+)+': 1 } }],
    [/rankPattern: expected names of target modules, found "up_proj"/, { rankPattern: { up: 2 } }],
  ])('%s', async (message, options) => {
    const error = await rejection(() =>
      resolveMethod(method({ targetModules: ['q'], ...options }), config),
    )
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toMatch(message)
  })
})

describe('galore', () => {
  test('has the published defaults', () => {
    const expected = { kind: 'galore', r: 128, interval: 200, scale: 0.25, seed: 0 }
    expect(resolveMethod(galore(), config)).toEqual(expected)
  })

  test.each<[RegExp, object]>([
    [/r: .*found 0/, { r: 0 }],
    [/updateInterval.*found 0/, { updateInterval: 0 }],
    [/scale.*found -1/, { scale: -1 }],
  ])('%s', async (message, options) => {
    const error = await rejection(() => galore(options))
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toMatch(message)
  })
})

describe('lisa', () => {
  test('trains two layers for twenty steps unless told otherwise', () => {
    expect(resolveMethod(lisa(), config)).toEqual({
      kind: 'lisa',
      layers: 2,
      interval: 20,
      seed: 0,
    })
  })

  test.each<[RegExp, object]>([
    [/layers.*found 0/, { layers: 0 }],
    [/interval.*found 1.5/, { interval: 1.5 }],
    [/layers: expected at most 3.*found 4/, { layers: 4 }],
  ])('%s', async (message, options) => {
    const error = await rejection(() => resolveMethod(lisa(options), config))
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toMatch(message)
  })
})

describe('sparse', () => {
  test('random places of one in a hundred elements of all linear layers unless told otherwise', () => {
    const resolved = resolveMethod(sparse(), config)
    expect(resolved).toMatchObject({ kind: 'sparse', share: 0.01, selection: 'random', seed: 0 })
    expect('modules' in resolved && resolved.modules).toHaveLength(21)
  })

  test.each<[RegExp, object]>([
    [/share.*found 0/, { share: 0 }],
    [/share.*found 1.5/, { share: 1.5 }],
    [/selection.*found "largest"/, { selection: 'largest' }],
    [/sparse targetModules.*found "lm_head"/, { targetModules: ['lm_head'] }],
  ])('%s', async (message, options) => {
    const error = await rejection(() => resolveMethod(sparse(options), config))
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toMatch(message)
  })
})

describe('schedules', () => {
  // transformers 5.17: get_{linear,cosine,constant}_schedule_with_warmup, rate 1, 3 of 10 steps.
  const table = {
    linear: [0, 1 / 3, 2 / 3, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7, 0],
    cosine: [
      0, 0.3333333333333333, 0.6666666666666666, 1, 0.9504844339512095, 0.8117449009293668,
      0.6112604669781572, 0.3887395330218429, 0.1882550990706332, 0.04951556604879043, 0,
    ],
    constant: [0, 1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 1],
  }
  test.each(Object.entries(table))('%s', (name, expected) => {
    const schedule = { name: name as 'linear', learningRate: 1, warmupSteps: 3, totalSteps: 10 }
    for (const [step, rate] of expected.entries()) {
      expect(learningRateAt(schedule, step), `step ${step}`).toBeCloseTo(rate, 14)
    }
  })

  test('without an end the rate stays', () => {
    const schedule = { name: 'linear', learningRate: 2, warmupSteps: 0, totalSteps: undefined }
    expect(learningRateAt({ ...schedule, name: 'linear' }, 1000)).toBe(2)
  })

  test('a warm-up share is rounded up', () => {
    expect(warmupSteps(0, 0.03, 101)).toBe(4)
    expect(warmupSteps(5, 0, 101)).toBe(5)
  })
})
