// Fuse, unfuse and switch: which adapters are in decides every bit of the weights, and nothing
// else does: neither the order nor how often they went in and out.
import { createHash } from 'node:crypto'
import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  Adapter,
  adapterOverlap,
  dora,
  lora,
  type Method,
  Model,
  s2ft,
  sparse,
  Trainer,
} from '../../lib/index.js'
import { temporaryDirectory } from '../support/directories.js'
import { goldenRoot } from '../support/golden.js'
import { rejection } from '../support/rejection.js'
import { readSafetensors, valuesOf } from '../support/safetensors.js'

const probe = Int32Array.of(5, 6, 10, 0, 3, 20, 6)
const samples = [{ tokens: [1, 2, 3, 4, 5, 6, 7, 8] }]

async function trained(model: Model, method: Method): Promise<Adapter> {
  const trainer = new Trainer(model, { method, learningRate: 0.05 })
  for (let i = 0; i < 2; i++) await trainer.step(samples)
  const adapter = await trainer.adapter()
  await trainer.dispose()
  return adapter
}

/** Numbers in [0, below), the same for the same seed. */
function randomNumbers(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

async function weightHash(model: Model): Promise<string> {
  const folder = temporaryDirectory()
  await model.save(join(folder, 'model'), { dtype: model.dtype })
  const bytes = readFileSync(join(folder, 'model', 'model.safetensors'))
  rmSync(folder, { recursive: true })
  return createHash('sha256').update(bytes).digest('hex')
}

describe.each([
  ['llama-gqa', 'f32'],
  ['llama-bf16', 'bf16'],
] as const)('%s in %s', (name, dtype) => {
  const load = () => Model.load(join(goldenRoot, name), { device: 'cpu', dtype })

  test('any order and number of repetitions leaves the bits of what is fused', async () => {
    await using model = await load()
    const down = { ratios: { down: 0.2, o: 0.5, q: 0.5 } }
    const adapters = [
      await trained(model, s2ft({ ...down, seed: 1 })),
      await trained(model, s2ft({ ...down, seed: 2 })),
      await trained(model, lora({ r: 2, targetModules: ['q', 'down'] })),
      await trained(model, dora({ r: 2, targetModules: ['o', 'down'] })),
      await trained(model, sparse({ share: 0.05, selection: 'random' })),
    ]
    const random = randomNumbers(7)
    const seen = new Map([['', await weightHash(model)]])
    const fused = new Map<number, number>()
    for (let turn = 0; turn < 60; turn++) {
      const i = random(adapters.length)
      const weight = i === 3 ? 1 : [1, 0.5, -2][random(3)]!
      if (random(4) === 0) {
        await model.switch(adapters[i]!, { weight })
        fused.clear()
        fused.set(i, weight)
      } else if (fused.has(i)) {
        await model.unfuse(adapters[i]!)
        fused.delete(i)
      } else {
        await model.fuse(adapters[i]!, { weight })
        fused.set(i, weight)
      }
      const state = JSON.stringify([...fused].sort())
      const key = fused.size === 0 ? '' : state
      const hash = await weightHash(model)
      expect(seen.get(key) ?? hash, `turn ${turn}: ${state}`).toBe(hash)
      seen.set(key, hash)
    }
    for (const i of fused.keys()) await model.unfuse(adapters[i]!)
    expect(await weightHash(model)).toBe(seen.get(''))
    expect(new Set(seen.values()).size).toBe(seen.size)
  })
})

test('the weight multiplies the change; DoRA has none', async () => {
  await using model = await Model.load(join(goldenRoot, 'llama-gqa'), { dtype: 'f32' })
  const name = 'model.layers.0.mlp.down_proj.weight'
  const weights = async () => {
    const folder = join(temporaryDirectory(), 'model')
    await model.save(folder)
    return valuesOf(readSafetensors(join(folder, 'model.safetensors')).get(name)!)
  }
  const base = await weights()
  for (const method of [s2ft({ ratios: { down: 0.2 } }), lora({ r: 2, targetModules: ['down'] })]) {
    const adapter = await trained(model, method)
    await model.fuse(adapter)
    const once = await weights()
    await model.switch(adapter, { weight: -3 })
    const scaled = await weights()
    await model.unfuse(adapter)
    let most = 0
    for (const [i, value] of base.entries()) {
      most = Math.max(most, Math.abs(scaled[i]! - value + 3 * (once[i]! - value)))
    }
    expect(most).toBeLessThan(1e-6)
    for (const weight of [Number.NaN, Number.POSITIVE_INFINITY]) {
      expect((await rejection(() => model.fuse(adapter, { weight }))).code).toBe('INVALID_ARGUMENT')
    }
    expect((await rejection(() => model.fuse(adapter, { weight: 1e300 }))).code).toMatch(
      /INVALID_ARGUMENT/,
    )
    expect(await weights()).toEqual(base)
  }
  const adapter = await trained(model, dora({ r: 2, targetModules: ['down'] }))
  expect((await rejection(() => model.fuse(adapter, { weight: 0.5 }))).code).toBe('UNSUPPORTED')
})

test('a switch that fails leaves what was fused; other calls never see the base between', async () => {
  await using model = await Model.load(join(goldenRoot, 'llama-gqa'), { dtype: 'f32' })
  const [a, b] = [
    await trained(model, s2ft({ ratios: { down: 0.2 }, seed: 1 })),
    await trained(model, s2ft({ ratios: { down: 0.2 }, seed: 2 })),
  ]
  const base = await model.logits(probe)
  await model.fuse(a)
  const withA = await model.logits(probe)
  const stranger = new Adapter({ ...b.info, baseFingerprint: 'abc123' } as never, b.tensors)
  expect((await rejection(() => model.switch(stranger))).code).toBe('ADAPTER_MISMATCH')
  expect(await model.logits(probe)).toEqual(withA)
  const during = model.switch(b)
  const between = await model.logits(probe)
  await during
  const withB = await model.logits(probe)
  expect([withA, withB]).toContainEqual(between)
  expect(base).not.toEqual(withB)
  // Changes asked for at once happen one after another.
  await Promise.all([model.switch(a), model.switch(b), model.switch(a)])
  expect(await model.logits(probe)).toEqual(withA)
})

test('overlap is counted in weights', async () => {
  await using model = await Model.load(join(goldenRoot, 'llama-gqa'), { dtype: 'f32' })
  const { hiddenSize, intermediateSize, layers } = model.config.native
  const down = (channels: number[]) => s2ft({ select: { down: channels } })
  const a = await trained(model, down([1, 2, 3]))
  const b = await trained(model, down([3, 4]))
  const c = await trained(model, down([5]))
  const d = await trained(model, lora({ r: 2, targetModules: ['down', 'up'] }))
  const e = await trained(model, sparse({ share: 0.3, targetModules: ['down'] }))
  const modules = (weights: number) =>
    Array.from({ length: layers }, (_, i) => ({
      module: `model.layers.${i}.mlp.down_proj`,
      weights,
    }))
  expect(adapterOverlap(a, b)).toEqual(modules(hiddenSize))
  expect(adapterOverlap(a, c)).toEqual([])
  expect(adapterOverlap(a, d)).toEqual(modules(3 * hiddenSize))
  expect(adapterOverlap(d, a)).toEqual(modules(3 * hiddenSize))
  const places = e.tensors.get('model.layers.0.mlp.down_proj.sparse_index')!.data
  expect(adapterOverlap(d, e)[0]).toEqual({ ...modules(places.length)[0] })
  // A mask and input columns take the layer's width, which a model knows.
  expect(adapterOverlap(a, e)[0]).toEqual({ module: modules(0)[0]!.module })
  const both = [...places].filter((place) => [1, 2, 3].includes(place % intermediateSize))
  expect(adapterOverlap(a, e, () => intermediateSize)[0]!.weights).toBe(both.length)
  expect(adapterOverlap(e, a, () => intermediateSize)[0]!.weights).toBe(both.length)
  expect(await model.fuse(a)).toEqual({ overlaps: [] })
  expect(await model.fuse(c)).toEqual({ overlaps: [] })
  expect(await model.fuse(b)).toEqual({ overlaps: [{ adapter: a, modules: modules(hiddenSize) }] })
  expect((await model.fuse(e)).overlaps.map(({ adapter }) => adapter)).toEqual([a, c, b])
})
