// Which units train: strategies against PyTorch's numbers, allocation over layers, disjoint
// adapters, and runs that choose by data.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { chosenUnits } from '../../lib/adapter/units.js'
import {
  Adapter,
  lora,
  Model,
  type ModuleKind,
  type S2ftOptions,
  type SampleInput,
  s2ft,
  Trainer,
  type TrainerOptions,
} from '../../lib/index.js'
import { allocateUnits, layerWeights } from '../../lib/method/allocation.js'
import { resolveMethod } from '../../lib/method/index.js'
import { moduleName, moduleShape, SLICE_AXIS, unitCount } from '../../lib/model/modules.js'
import type { LayerSelection, NativeModelConfig } from '../../lib/native/binding.js'
import { changedAdapter } from '../support/adapters.js'
import { temporaryDirectory } from '../support/directories.js'
import { expectedTensor, goldenRoot, loadGolden } from '../support/golden.js'
import { rejection } from '../support/rejection.js'
import { readSafetensors, valuesOf } from '../support/safetensors.js'

const load = (name: string) =>
  Model.load(join(goldenRoot, name), { device: 'cpu', dtype: 'f32', threads: 1 })

/** Units that an adapter trains, ascending, by layer. */
function unitsOf(adapter: Adapter, config: NativeModelConfig): LayerSelection[] {
  const kinds = Object.keys(SLICE_AXIS) as ModuleKind[]
  return Array.from({ length: config.layers }, (_, layer) => {
    const selection: LayerSelection = {}
    for (const kind of kinds) {
      const index = adapter.tensors.get(`${moduleName(layer, kind)}.s2ft_index`)
      if (!index) continue
      const width = moduleShape(config, kind)[SLICE_AXIS[kind] === 'rows' ? 0 : 1]
      const unit = width / unitCount(config, kind)
      const units = new Set(Array.from(index.data, (i) => Math.floor(i / unit)))
      selection[kind] = [...units].sort((a, b) => a - b)
    }
    return selection
  })
}

type Group = 'heads' | 'kvHeads' | 'channels'
const groups: Record<Group, ModuleKind[]> = {
  heads: ['q', 'o'],
  kvHeads: ['k', 'v'],
  channels: ['gate', 'up', 'down'],
}
type Scores = Record<Group, number[]>
const activations: Record<string, Scores[]> = JSON.parse(
  readFileSync(join(goldenRoot, 'selection.json'), 'utf8'),
)

/** Norms of units over the modules of their group. */
function norms(config: NativeModelConfig, values: (module: string) => Float32Array): Scores[] {
  return Array.from({ length: config.layers }, (_, layer) => {
    const scores = { heads: [], kvHeads: [], channels: [] } as Scores
    for (const [group, kinds] of Object.entries(groups) as [Group, ModuleKind[]][]) {
      const sums = new Float64Array(unitCount(config, kinds[0]!))
      for (const kind of kinds) {
        const [out, input] = moduleShape(config, kind)
        const rows = SLICE_AXIS[kind] === 'rows'
        const width = (rows ? out : input) / sums.length
        for (const [i, value] of values(moduleName(layer, kind)).entries()) {
          const at = rows ? Math.floor(i / input) : i % input
          sums[Math.floor(at / width)]! += value ** 2
        }
      }
      scores[group] = Array.from(sums, Math.sqrt)
    }
    return scores
  })
}

function first(scores: number[], count: number, order: 'largest' | 'smallest'): number[] {
  const sign = order === 'largest' ? -1 : 1
  const ranked = scores.map((_, unit) => unit).sort((a, b) => sign * (scores[a]! - scores[b]!))
  // A tie at the edge would leave the choice to rounding.
  const [inside, outside] = [scores[ranked[count - 1]!]!, scores[ranked[count]!] ?? 0]
  expect(Math.abs(inside - outside)).toBeGreaterThan(2e-5 * inside)
  return ranked.slice(0, count).sort((a, b) => a - b)
}

const ratios = { q: 0.5, o: 0.25, k: 0.5, v: 0.5, gate: 0.1, up: 0.2, down: 0.15 }

describe.each(['llama-gqa', 'llama-tied', 'qwen3'])('%s: units as PyTorch ranks them', (name) => {
  const golden = loadGolden(name)
  let model: Model
  beforeAll(async () => {
    model = await load(name)
  })
  afterAll(() => model.dispose())

  test.each([
    ['weight', 'largest'],
    ['weight', 'smallest'],
    ['activation', 'largest'],
    ['activation', 'smallest'],
    ['weight-activation', 'largest'],
    ['weight-activation', 'smallest'],
    ['gradient', 'largest'],
    ['gradient', 'smallest'],
  ] as const)('%s, %s', async (selection, order) => {
    const config = model.config.native
    const weights = readSafetensors(join(golden.directory, 'model.safetensors'))
    const byWeight = norms(config, (module) => valuesOf(weights.get(`${module}.weight`)!))
    const byGradient = norms(config, (m) => expectedTensor(golden, `gradient.${m}`).values)
    const scores = Array.from({ length: config.layers }, (_, layer): Scores => {
      if (selection === 'weight') return byWeight[layer]!
      if (selection === 'gradient') return byGradient[layer]!
      const found = activations[name]![layer]!
      if (selection === 'activation') return found
      const product = (group: Group) =>
        found[group].map((value, unit) => value * byWeight[layer]![group][unit]!)
      return {
        heads: product('heads'),
        kvHeads: product('kvHeads'),
        channels: product('channels'),
      }
    })
    const trainer = new Trainer(model, { method: s2ft({ ratios, selection, order }) })
    try {
      await trainer.gradients(golden.batches[0]!)
      const found = unitsOf(await trainer.adapter(), config)
      for (const [layer, selected] of found.entries()) {
        for (const [group, kinds] of Object.entries(groups) as [Group, ModuleKind[]][]) {
          for (const kind of kinds) {
            const count = Math.max(1, Math.round(ratios[kind] * unitCount(config, kind)))
            expect(selected[kind], `${kind} of layer ${layer}`).toEqual(
              first(scores[layer]![group], count, order),
            )
          }
        }
      }
    } finally {
      await trainer.dispose()
    }
  })
})

describe('allocation', () => {
  test.each<[string, number, number, number[], number[]]>([
    ['even', 12, 9, [1, 1, 1, 1], [3, 3, 3, 3]],
    ['in proportion', 20, 9, [1, 2, 3, 4], [2, 4, 6, 8]],
    ['largest remainders', 10, 9, [1, 2, 3], [2, 3, 5]],
    ['lower layers at equal remainders', 5, 9, [1, 1, 1, 1], [2, 1, 1, 1]],
    ['full layers hand on', 12, 4, [1, 1, 10, 0], [4, 4, 4, 0]],
    ['full layers hand on in proportion', 13, 5, [1, 2, 100], [3, 5, 5]],
    ['one layer, as far as it goes', 12, 9, [0, 1, 0], [0, 9, 0]],
    ['nothing', 0, 9, [1, 2], [0, 0]],
  ])('%s', (_, total, most, weights, expected) => {
    expect(allocateUnits(total, most, weights)).toEqual(expected)
  })

  test('any weights: the total is kept, no layer is overfull', () => {
    for (let seed = 1; seed < 200; seed++) {
      const layers = 1 + (seed % 13)
      const weights = Array.from({ length: layers }, (_, i) => ((seed * (i + 3)) % 17) + 0.1)
      const most = 1 + (seed % 29)
      const total = (seed * 7) % (layers * most + 1)
      const counts = allocateUnits(total, most, weights)
      expect(counts.reduce((a, b) => a + b, 0)).toBe(total)
      expect(Math.max(...counts)).toBeLessThanOrEqual(most)
      expect(counts.every((count) => Number.isInteger(count) && count >= 0)).toBe(true)
    }
  })

  test('names', () => {
    expect(layerWeights('increasing', 3, 0)).toEqual([1, 2, 3])
    expect(layerWeights('decreasing', 3, 0)).toEqual([3, 2, 1])
    const drawn = Array.from({ length: 60 }, (_, seed) =>
      layerWeights('one-random-layer', 3, seed).indexOf(1),
    )
    expect(new Set(drawn)).toEqual(new Set([0, 1, 2]))
    expect(layerWeights('one-random-layer', 3, 7)).toEqual(layerWeights('one-random-layer', 3, 7))
  })

  test('the budget is the same in all, module by module', async () => {
    const model = await load('llama-tied')
    const config = model.config.native
    await model.dispose()
    const counts = (allocation: S2ftOptions['allocation'] & object) => {
      const method = s2ft({ ratios: { o: 0.2, down: 0.1 }, allocation })
      const resolved = resolveMethod(method, config)
      if (resolved.kind !== 's2ft' || !('counts' in resolved)) throw new Error('expected counts')
      return resolved.counts
    }
    // 2 of 9 heads and 5 of 49 channels in each of 3 layers.
    expect(counts('uniform')).toEqual([
      { o: 2, down: 5 },
      { o: 2, down: 5 },
      { o: 2, down: 5 },
    ])
    expect(counts('increasing')).toEqual([
      { o: 1, down: 3 },
      { o: 2, down: 5 },
      { o: 3, down: 7 },
    ])
    expect(counts([0, 0, 3])).toEqual([{}, {}, { o: 6, down: 15 }])
    const error = await rejection(() => counts([1, 1]))
    expect(error.message).toMatch(/allocation: expected 3 weights.*found 2/)
  })
})

describe('options', () => {
  test('the ends that the paper found best', () => {
    const order = (selection: S2ftOptions['selection'] & string) => s2ft({ selection }).order
    expect(order('random')).toBeUndefined()
    expect(order('weight')).toBe('largest')
    expect(order('activation')).toBe('smallest')
    expect(order('weight-activation')).toBe('smallest')
    expect(order('gradient')).toBe('largest')
    expect(s2ft({ selection: 'gradient' }).calibrationShare).toBe(0.01)
    expect(s2ft({ selection: 'weight' })).not.toHaveProperty('calibrationShare')
  })

  test.each<[RegExp, object]>([
    [/selection: .*found "magnitude"/, { selection: 'magnitude' }],
    [/order: .*found "random"/, { order: 'largest' }],
    [/order: .*found "big"/, { selection: 'weight', order: 'big' }],
    [/calibrationShare: .*found "weight"/, { selection: 'weight', calibrationShare: 0.1 }],
    [/calibrationShare: .*found 0/, { selection: 'gradient', calibrationShare: 0 }],
    [/allocation: .*found "random"/, { allocation: 'random' }],
    [/allocation: .*found \[0,0\]/, { allocation: [0, 0] }],
    [/allocation\.0: .*found -1/, { allocation: [-1, 2] }],
    [/avoid: .*found "x"/, { avoid: 'x' }],
    [/without avoid/, { select: { down: [1] }, avoid: { x: [1] } }],
    [/without selection/, { select: { down: [1] }, selection: 'weight' }],
    [/without allocation/, { select: { down: [1] }, allocation: 'uniform' }],
  ])('%s', async (message, options) => {
    const error = await rejection(() => s2ft(options as S2ftOptions))
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toMatch(message)
  })
})

describe('training', () => {
  let model: Model
  beforeAll(async () => {
    model = await load('llama-gqa')
  })
  afterAll(() => model.dispose())

  const samples: SampleInput[] = Array.from({ length: 12 }, (_, i) => ({
    tokens: Array.from({ length: 5 + ((i * 7) % 9) }, (_, j) => (i * 13 + j * 29) % 67),
  }))
  const train = async (method: S2ftOptions, more: Partial<TrainerOptions> = {}) => {
    const trainer = new Trainer(model, {
      method: s2ft(method),
      learningRate: 1e-2,
      batchSize: 2,
      maxSteps: 3,
      ...more,
    })
    try {
      for await (const _ of trainer.fit(samples));
      return await trainer.adapter()
    } finally {
      await trainer.dispose()
    }
  }
  const small = { o: 0.25, down: 0.1 }

  test('the adapter says how its units were chosen, in its file too', async () => {
    const adapter = await train({
      ratios: small,
      selection: 'weight-activation',
      calibrationShare: 0.5,
      allocation: [1, 3],
      seed: 4,
    })
    const folder = temporaryDirectory()
    await adapter.save(folder)
    const loaded = await Adapter.load(folder)
    expect(loaded.info).toEqual(adapter.info)
    expect(JSON.parse(readFileSync(join(folder, 'adapter_config.json'), 'utf8'))).toMatchObject({
      selection: {
        strategy: 'weight-activation',
        order: 'smallest',
        share: 0.5,
        allocation: [1, 3],
        ratios: small,
      },
      seed: 4,
      units: { layers: 2, heads: 4, kv_heads: 2, head_dim: 8, channels: 53 },
    })
    const found = unitsOf(loaded, model.config.native)
    expect(found.map(({ o, down }) => [o?.length ?? 0, down?.length ?? 0])).toEqual([
      [1, 3],
      [1, 7],
    ])
    for (const units of [
      { layers: 1, heads: 4, kv_heads: 2, head_dim: 8, channels: 53 },
      { layers: 2, heads: 4, kv_heads: 2, head_dim: 8, channels: 1 },
    ]) {
      const wrong = await changedAdapter(folder, { units }, {})
      expect((await rejection(() => chosenUnits(wrong))).code).toBe('CORRUPT_FILE')
    }
    const budget = await train({ budget: { loraRank: 1 } })
    expect(budget.info).toMatchObject({
      selection: { strategy: 'random', allocation: 'uniform', lora_rank: 1 },
    })
  })

  test.each(['activation', 'gradient'] as const)('%s: seed and share decide', async (selection) => {
    const units = async (more: S2ftOptions, options = {}) =>
      unitsOf(await train({ ratios: small, selection, ...more }, options), model.config.native)
    const once = await units({ calibrationShare: 0.3 })
    expect(await units({ calibrationShare: 0.3 })).toEqual(once)
    // Other samples come first.
    const others = await units({ calibrationShare: 0.3 }, { seed: 1 })
    const whole = await units({ calibrationShare: 1 })
    expect([others, whole]).not.toEqual([once, once])
    // All samples: their order does not matter.
    expect(await units({ calibrationShare: 1 }, { seed: 1 })).toEqual(whole)
  })

  test('training goes on from an adapter, at the units that its data chose', async () => {
    const method = { ratios: small, selection: 'gradient' } as const
    const adapter = await train({ ...method, calibrationShare: 1 })
    const further = await train(method, { initialAdapter: adapter, learningRate: 0 })
    const config = model.config.native
    expect(unitsOf(further, config)).toEqual(unitsOf(adapter, config))
    const error = await rejection(() =>
      train({ ...method, ratios: { o: 0.25, down: 0.2 } }, { initialAdapter: adapter }),
    )
    expect(error.code).toBe('ADAPTER_MISMATCH')
    expect(error.message).toMatch(/places in .*down_proj: expected 11 .*found 5/)
  })

  describe('avoid', () => {
    const all = { q: 0.5, o: 0.25, k: 0.5, v: 0.5, up: 0.3, down: 0.2 }

    test.each(['random', 'weight', 'activation'] as const)('%s: disjoint', async (selection) => {
      const config = model.config.native
      const one = await train({ ratios: all, selection })
      const two = await train({ ratios: all, selection, avoid: [one] })
      const three = await train({ ratios: { up: 0.3 }, selection, avoid: [one, two] })
      const before = unitsOf(one, config)
      const taken = unitsOf(two, config)
      for (const [layer, selected] of taken.entries()) {
        for (const [kind, units] of Object.entries(selected) as [ModuleKind, number[]][]) {
          expect(units.filter((unit) => before[layer]![kind]!.includes(unit))).toEqual([])
          expect(units).toHaveLength(before[layer]![kind]!.length)
        }
      }
      for (const [layer, { up }] of unitsOf(three, config).entries()) {
        const others = [...before[layer]!.up!, ...taken[layer]!.up!]
        expect(up!.filter((unit) => others.includes(unit))).toEqual([])
      }
      // Both are fused, and come out again in the other order.
      const probe = Int32Array.of(5, 66, 10)
      const base = await model.logits(probe)
      await model.fuse(one)
      await model.fuse(two)
      await model.unfuse(one)
      await model.unfuse(two)
      expect(await model.logits(probe)).toEqual(base)
    })

    test('too few units remain, foreign modules, other adapters', async () => {
      const refusal = async (options: S2ftOptions) => rejection(() => train(options))
      const half = await train({ ratios: { down: 0.6 } })
      const few = await refusal({ ratios: { down: 0.6 }, avoid: [half] })
      expect(few.code).toBe('INVALID_ARGUMENT')
      expect(few.message).toMatch(/layer 0, down: expected 0 to 21 units that are not avoided/)
      const down = 'model.layers.1.mlp.down_proj'
      expect((await refusal({ avoid: { [down]: [53] } })).message).toMatch(
        /down_proj: expected cols in \[0, 53\), found 53/,
      )
      expect((await refusal({ avoid: { 'model.layers.2.mlp.down_proj': [1] } })).message).toMatch(
        /within 2 layers/,
      )
      const trainer = new Trainer(model, { method: lora({ r: 2 }) })
      const other = await trainer.adapter()
      await trainer.dispose()
      expect((await refusal({ avoid: [other] })).message).toMatch(/found one of type lora/)
    })

    test('by rows and columns: a head is left alone with any of its columns', async () => {
      const o = 'model.layers.0.self_attn.o_proj'
      const adapter = await train({ ratios: { o: 0.5 }, avoid: { [o]: [3, 17] } })
      expect(unitsOf(adapter, model.config.native)[0]).toEqual({ o: [1, 3] })
    })
  })
})
