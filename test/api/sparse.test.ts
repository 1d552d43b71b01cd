// Sparse fine-tuning's adapter: trained, saved, fused, and files that must not be trusted.
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Adapter, full, Model, sparse, type Tensor, Trainer, toLora } from '../../lib/index.js'
import { changedAdapter } from '../support/adapters.js'
import { temporaryDirectory } from '../support/directories.js'
import { goldenRoot, relativeError } from '../support/golden.js'
import { rejection } from '../support/rejection.js'

const probe = Int32Array.of(5, 66, 10, 0, 43, 20, 61)
const samples = [{ tokens: [1, 2, 3, 4, 5, 6, 7, 8] }, { tokens: [9, 8, 7, 6, 5] }]

let model: Model
beforeAll(async () => {
  model = await Model.load(join(goldenRoot, 'llama-gqa'), { device: 'cpu', dtype: 'f32' })
})
afterAll(() => model.dispose())

const largest = (a: Float32Array, b: Float32Array) =>
  a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0)

describe('sparse', () => {
  const method = sparse({ share: 0.1, selection: 'fisher', targetModules: ['q', 'down'] })
  const train = async (more: object = {}) => {
    const trainer = new Trainer(model, { method, learningRate: 0.05, ...more })
    const before = await model.logits(probe)
    for (let i = 0; i < 3; i++) await trainer.step(samples)
    const result = { trained: await model.logits(probe), adapter: await trainer.adapter() }
    await trainer.dispose()
    expect(await model.logits(probe)).toEqual(before)
    return result
  }

  test('trained, saved, loaded, fused: the same logits; unfused the base, bit by bit', async () => {
    const before = await model.logits(probe)
    const { trained, adapter } = await train()
    const folder = temporaryDirectory()
    await adapter.save(folder)
    const loaded = await Adapter.load(folder)
    expect(loaded.info).toEqual(adapter.info)
    expect(loaded.info).toMatchObject({
      type: 'sparse',
      selection: { strategy: 'fisher', share: 0.1 },
    })
    // A tenth of q (32 by 32) and down (32 by 53) in both layers.
    expect(loaded.parameters).toBe(2 * (102 + 170))
    await model.fuse(loaded)
    expect(largest(await model.logits(probe), trained)).toBeLessThan(1e-5)
    expect(largest(before, trained)).toBeGreaterThan(1e-3)
    await model.unfuse(loaded)
    expect(await model.logits(probe)).toEqual(before)
    expect((await rejection(() => toLora(loaded, model.config.native))).code).toBe('UNSUPPORTED')
  })

  test('training goes on from an adapter, at its places', async () => {
    const { trained, adapter } = await train()
    const further = await train({ initialAdapter: adapter, learningRate: 0 })
    // Base + change is rounded to f32 again.
    expect(largest(further.trained, trained)).toBeLessThan(1e-5)
    for (const [name, { dtype, data }] of adapter.tensors) {
      const found = further.adapter.tensors.get(name)!.data
      if (dtype === 'I32') expect(found).toEqual(data)
      else expect(relativeError(found, data), name).toBeLessThan(1e-5)
    }
    const other = new Trainer(model, { method: sparse(), initialAdapter: adapter })
    expect((await rejection(() => other.step(samples))).code).toBe('ADAPTER_MISMATCH')
    await other.dispose()
  })

  test('gradients are those of full fine-tuning at the places', async () => {
    const whole = new Trainer(model, { method: full() })
    const dense = await whole.gradients(samples)
    await whole.dispose()
    const trainer = new Trainer(model, { method })
    const found = await trainer.gradients(samples)
    const { tensors } = await trainer.adapter()
    await trainer.dispose()
    expect(found.size).toBe(4)
    for (const [module, gradient] of found) {
      const places = tensors.get(`${module}.sparse_index`)!.data
      const expected = Float32Array.from(places, (place) => dense.get(module)![place]!)
      expect(relativeError(gradient, expected), module).toBeLessThan(1e-6)
    }
  })

  test('files that are wrong are refused by name', async () => {
    const folder = temporaryDirectory()
    const { adapter } = await train()
    await adapter.save(folder)
    const name = 'model.layers.0.mlp.down_proj.sparse_index'
    const data = adapter.tensors.get(name)!.data.slice() as Int32Array
    const wrong = async (config: object, at: number, value: number) => {
      const places = data.slice()
      places[at] = value
      const tensor: Tensor = { dtype: 'I32', shape: [170], data: places }
      const loaded = await changedAdapter(folder, config, { [name]: tensor })
      return model.fuse(loaded)
    }
    for (const [at, value] of [
      [0, -1],
      [5, data[4]!],
      [169, 32 * 53],
    ] as const) {
      const error = await rejection(() => wrong({}, at, value))
      expect(error.code).toBe('CORRUPT_FILE')
      expect(error.message).toContain(`${name}[${at}]`)
    }
    const kept = data[0]!
    const config = (changes: object) => rejection(() => wrong(changes, 0, kept))
    expect((await config({ format_version: 2 })).message).toMatch(/format_version/)
    expect((await config({ masks: [] })).message).toMatch(/masks/)
    const one = [{ module: 'model.layers.0.mlp.down_proj', count: 170 }]
    expect((await config({ masks: [...one, ...one] })).message).toMatch(/each module once/)
    expect((await config({ masks: one })).message).toMatch(/tensors of the masks/)
  })
})
