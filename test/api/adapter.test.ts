// Adapters: round trips, fusion by bits, PEFT's format, and files that must not be trusted.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { toBfloat16, toFloat16 } from '../../lib/adapter/values.js'
import { Adapter, dora, lora, Model, s2ft, type Tensor, Trainer, toLora } from '../../lib/index.js'
import { native } from '../../lib/native/load.js'
import { changedAdapter, type TensorChanges } from '../support/adapters.js'
import { temporaryDirectory } from '../support/directories.js'
import { expectedTensor, goldenRoot, goldenRuns, relativeError } from '../support/golden.js'
import { rejection } from '../support/rejection.js'

const directory = join(goldenRoot, 'llama-gqa')
const probe = Int32Array.of(5, 66, 10, 0, 43, 20, 61)
const samples = [{ tokens: [1, 2, 3, 4, 5, 6, 7, 8] }, { tokens: [9, 8, 7, 6, 5] }]

let model: Model
let tuned: Adapter
let tunedLogits: Float32Array
beforeAll(async () => {
  model = await Model.load(directory, { device: 'cpu', dtype: 'f32' })
  const method = s2ft({ ratios: { q: 0.5, v: 0.5, o: 0.25, gate: 0.1, up: 0.1, down: 0.1 } })
  const trainer = new Trainer(model, { method, learningRate: 0.05 })
  for (let i = 0; i < 3; i++) await trainer.step(samples)
  tunedLogits = await model.logits(probe)
  tuned = await trainer.adapter()
  await trainer.dispose()
})
afterAll(() => model.dispose())

const largest = (a: Float32Array, b: Float32Array) =>
  a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0)

async function saved(): Promise<string> {
  const folder = temporaryDirectory()
  await tuned.save(folder)
  return folder
}

describe('S²FT', () => {
  test('saves and loads the same', async () => {
    const folder = await saved()
    expect(readdirSync(folder).sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors'])
    const loaded = await Adapter.load(folder)
    expect(loaded.info).toEqual(tuned.info)
    expect(new Map([...loaded.tensors].sort())).toEqual(new Map([...tuned.tensors].sort()))
    expect(loaded.parameters).toBe(tuned.parameters)
  })

  test('replaces an adapter and leaves other files alone', async () => {
    const folder = await saved()
    writeFileSync(join(folder, 'notes.txt'), 'mine')
    await tuned.save(folder)
    expect(readFileSync(join(folder, 'notes.txt'), 'utf8')).toBe('mine')
    expect((await Adapter.load(folder)).parameters).toBe(tuned.parameters)
  })

  test("a whole model's directory is told apart from a folder without an adapter", async () => {
    const whole = await rejection(() => Adapter.load(directory))
    expect(whole.code).toBe('INVALID_ARGUMENT')
    expect(whole.message).toContain('found a whole model (config.json)')
    expect((await rejection(() => Adapter.load(temporaryDirectory()))).code).toBe('IO')
  })

  test('fused it computes what training computed; unfused the base, bit by bit', async () => {
    const before = await model.logits(probe)
    await model.fuse(tuned)
    const fused = await model.logits(probe)
    expect(largest(fused, tunedLogits)).toBeLessThan(1e-5)
    expect(largest(fused, before)).toBeGreaterThan(1e-3)
    await model.unfuse(tuned)
    expect(await model.logits(probe)).toEqual(before)
  })

  test('as LoRA it computes the same', async () => {
    const folder = temporaryDirectory()
    await toLora(tuned, model.config.native).save(folder)
    const exported = await Adapter.load(folder)
    expect(exported.info.type).toBe('lora')
    await model.fuse(exported)
    expect(largest(await model.logits(probe), tunedLogits)).toBeLessThan(1e-5)
    await model.unfuse(exported)
  })

  test('a live trainer takes its changes out when its adapter is fused', async () => {
    const trainer = new Trainer(model, { method: s2ft(), learningRate: 0.05 })
    await trainer.step(samples)
    const trained = await model.logits(probe)
    const adapter = await trainer.adapter()
    await model.fuse(adapter)
    expect(largest(await model.logits(probe), trained)).toBeLessThan(1e-5)
    expect((await rejection(() => trainer.step(samples))).code).toBe('BUSY')
    await model.unfuse(adapter)
    await trainer.step(samples)
    await trainer.dispose()
  })

  test('fusing twice, and taking out what is not in', async () => {
    await model.fuse(tuned)
    expect((await rejection(() => model.fuse(tuned))).code).toBe('INVALID_ARGUMENT')
    await model.unfuse(tuned)
    expect((await rejection(() => model.unfuse(tuned))).code).toBe('INVALID_ARGUMENT')
  })

  test('another base is refused by both fingerprints, unless forced', async () => {
    const info = { ...tuned.info, baseFingerprint: 'abc123' } as Adapter['info']
    const stranger = new Adapter(info, tuned.tensors)
    const error = await rejection(() => model.fuse(stranger))
    expect(error.code).toBe('ADAPTER_MISMATCH')
    expect(error.message).toContain('abc123')
    expect(error.message).toContain(await model.fingerprint())
    await model.fuse(stranger, { force: true })
    await model.unfuse(stranger)
  })

  test('force does not excuse shapes', async () => {
    const other = await Model.load(join(goldenRoot, 'llama-tied'), { dtype: 'f32' })
    const error = await rejection(() => other.fuse(tuned, { force: true }))
    expect(['SHAPE_MISMATCH', 'ADAPTER_MISMATCH', 'CORRUPT_FILE']).toContain(error.code)
    await other.dispose()
  })
})

describe('LoRA', () => {
  test('trained, saved, loaded, fused: the same logits', async () => {
    const method = lora({ r: 2, alpha: 3, rslora: true })
    const trainer = new Trainer(model, { method, learningRate: 0.05 })
    for (let i = 0; i < 3; i++) await trainer.step(samples)
    const trained = await model.logits(probe)
    const folder = temporaryDirectory()
    await (await trainer.adapter()).save(folder)
    await trainer.dispose()
    const adapter = await Adapter.load(folder)
    expect(adapter.info).toMatchObject({ r: 2, alpha: 3, rslora: true })
    await model.fuse(adapter)
    expect(largest(await model.logits(probe), trained)).toBeLessThan(1e-5)
    await model.unfuse(adapter)
  })

  test("PEFT's file loads, and comes out with PEFT's names", async () => {
    const adapter = await Adapter.load(join(directory, 'lora-init'))
    expect(adapter.info).toMatchObject({ type: 'lora', r: 4, alpha: 8 })
    const folder = temporaryDirectory()
    await adapter.save(folder)
    const names = async (from: string) => {
      const file = join(from, 'adapter_model.safetensors')
      return Object.keys((await native().readSafetensors(file)).tensors).sort()
    }
    expect(await names(folder)).toEqual(await names(join(directory, 'lora-init')))
  })

  test.each(goldenRuns('lora', 'dora'))("fused it has PEFT's logits: %s", async (_, golden) => {
    const { run, golden: at } = golden
    const own = await Model.load(at.directory, { device: 'cpu', dtype: 'f32' })
    const tokens = at.batches[0]![0]!.tokens
    const before = await own.logits(tokens)
    const adapter = await Adapter.load(join(at.directory, run.init!))
    await own.fuse(adapter)
    const { values } = expectedTensor(at, `run.${run.name}.logits`)
    // As the logits of the base: test/model/forward.test.ts.
    expect(relativeError(await own.logits(tokens), values)).toBeLessThan(1e-5)
    await own.unfuse(adapter)
    expect(await own.logits(tokens)).toEqual(before)
    await own.dispose()
  })

  test.each(goldenRuns('lora', 'dora'))('PEFT reads back what it wrote: %s', async (_, golden) => {
    const from = join(golden.golden.directory, golden.run.init!)
    const folder = temporaryDirectory()
    await (await Adapter.load(from)).save(folder)
    const tensors = async (at: string) =>
      (await native().readSafetensors(join(at, 'adapter_model.safetensors'))).tensors
    expect(await tensors(folder)).toEqual(await tensors(from))
    const config = (at: string) =>
      JSON.parse(readFileSync(join(at, 'adapter_config.json'), 'utf8')) as Record<string, unknown>
    for (const [key, value] of Object.entries(config(folder))) {
      expect(value, key).toEqual(config(from)[key])
    }
  })

  test('DoRA trained, saved, loaded, fused: the same logits; it can be trained on', async () => {
    const method = dora({ r: 2, alphaPattern: { q: 3 }, rankPattern: { down_proj: 5 } })
    const trainer = new Trainer(model, { method, learningRate: 0.05 })
    for (let i = 0; i < 3; i++) await trainer.step(samples)
    const trained = await model.logits(probe)
    const folder = temporaryDirectory()
    await (await trainer.adapter()).save(folder)
    await trainer.dispose()
    const adapter = await Adapter.load(folder)
    expect(adapter.info).toMatchObject({ type: 'lora', dora: true, r: 2 })
    expect(adapter.patterns).toEqual({ ranks: { down_proj: 5 }, alphas: { q_proj: 3 } })
    await model.fuse(adapter)
    expect(largest(await model.logits(probe), trained)).toBeLessThan(1e-5)
    await model.unfuse(adapter)
    const more = new Trainer(model, { method, initialAdapter: adapter, learningRate: 0 })
    await more.step(samples)
    expect(largest(await model.logits(probe), trained)).toBeLessThan(1e-5)
    await more.dispose()
    const other = new Trainer(model, { method: lora({ r: 2 }), initialAdapter: adapter })
    expect((await rejection(() => other.step(samples))).code).toBe('ADAPTER_MISMATCH')
    await other.dispose()
    const { alphaPattern: _, ...plain } = method
    const scaled = new Trainer(model, { method: plain, initialAdapter: adapter })
    expect((await rejection(() => scaled.step(samples))).message).toMatch(/alpha of model.layers.0/)
    await scaled.dispose()
  })

  test.each(['BF16', 'F16'] as const)('%s factors load and fuse', async (dtype) => {
    const from = join(directory, 'lora-init')
    const file = join(from, 'adapter_model.safetensors')
    const { tensors } = await native().readSafetensors(file)
    const narrow = dtype === 'F16' ? toFloat16 : toBfloat16
    const half = Object.entries(tensors).map(([name, { shape, data }]): [string, Tensor] => [
      name,
      { dtype, shape, data: narrow(data as Float32Array, name) },
    ])
    const logits = async (adapter: Adapter) => {
      await model.fuse(adapter)
      const found = await model.logits(probe)
      await model.unfuse(adapter)
      return found
    }
    const exact = await logits(await Adapter.load(from))
    const found = await logits(await changed({}, Object.fromEntries(half), from))
    // Half of the last bit that BF16 keeps is 2^-9 of a value, F16's 2^-12.
    expect(relativeError(found, exact)).toBeLessThan(dtype === 'BF16' ? 2 ** -7 : 2 ** -10)
    expect(found).not.toEqual(exact)
  })

  test('magnitudes belong to DoRA alone, one a module', async () => {
    const from = join(directory, 'dora-init')
    const error = await rejection(() => changed({ use_dora: false }, {}, from))
    expect(error.code).toBe('UNSUPPORTED')
    expect(error.message).toContain('lora_magnitude_vector')
    const missing = await rejection(() =>
      changed({ use_dora: true }, {}, join(directory, 'lora-init')),
    )
    expect(missing.code).toBe('CORRUPT_FILE')
    expect(missing.message).toContain('lora_magnitude_vector')
  })

  test.each<[string, object]>([
    ['bias', { bias: 'all' }],
    ['modules_to_save', { modules_to_save: ['lm_head'] }],
    ['lora_bias', { lora_bias: true }],
    ['target_parameters', { target_parameters: ['x'] }],
    ['trainable_token_indices', { trainable_token_indices: [1] }],
    ['rank_pattern', { rank_pattern: { '(a+)+$': 4 } }],
  ])('%s is refused', async (key, change) => {
    const error = await rejection(() => changed(change, {}, join(directory, 'lora-init')))
    expect(error.code).toBe('UNSUPPORTED')
    expect(error.message).toContain(key)
  })
})

/** Loads an adapter after its config and tensors were changed. */
const changed = async (config: object, tensors: TensorChanges, source?: string) =>
  changedAdapter(source ?? (await saved()), config, tensors)

describe('files from outside', () => {
  const module = 'model.layers.0.mlp.down_proj'
  const index = (...values: number[]): Record<string, Tensor> => ({
    [`${module}.s2ft_index`]: {
      dtype: 'I32',
      shape: [values.length],
      data: Int32Array.from(values),
    },
  })
  const delta = (shape: number[], fill = 0): Record<string, Tensor> => ({
    [`${module}.s2ft_delta`]: {
      dtype: 'F32',
      shape,
      data: new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(fill),
    },
  })

  test('the unchanged file passes this way too', async () => {
    expect((await changed({}, {})).parameters).toBe(tuned.parameters)
  })

  test.each<[string, object, Record<string, Tensor | undefined>, RegExp]>([
    ['another type', { peft_type: 'PREFIX' }, {}, /peft_type.*"PREFIX"/],
    ['another version', { format_version: 99 }, {}, /format_version.*99/],
    ['a bad fingerprint', { base_fingerprint: '../x' }, {}, /base_fingerprint/],
    ['no slices', { slices: [] }, {}, /slices/],
    [
      'an unknown module',
      { slices: [{ module: 'lm_head', axis: 'rows', count: 1 }] },
      {},
      /lm_head.*linear module/,
    ],
    [
      'the wrong axis',
      { slices: [{ module, axis: 'rows', count: 5 }] },
      {},
      /expected axis cols, found axis rows/,
    ],
    ['a missing tensor', {}, { [`${module}.s2ft_index`]: undefined }, /s2ft_index, found none/],
    ['an extra tensor', {}, { extra: delta([1])[`${module}.s2ft_delta`] }, /"extra"/],
    ['an index twice', {}, index(1, 2, 3, 4, 4), /each index once, found 4 again/],
    ['a negative index', {}, index(-1, 2, 3, 4, 5), /found -1/],
    ['too few indices', {}, index(1), /expected shape \[5\], found \[1\]/],
    ['a delta of another shape', {}, delta([32, 4]), /expected shape \[any, 5\], found \[32, 4\]/],
    ['values that are not finite', {}, delta([32, 5], Number.NaN), /finite values, found NaN/],
  ])('%s', async (_, config, tensors, message) => {
    expect((await rejection(() => changed(config, tensors))).message).toMatch(message)
  })

  test('an index beyond the weight is found when the adapter meets a model', async () => {
    const adapter = await changed({}, index(1, 2, 3, 4, 53))
    const error = await rejection(() => model.fuse(adapter))
    expect(error.code).toBe('CORRUPT_FILE')
    expect(error.message).toMatch(/\[0, 53\), found 53/)
  })

  test('a missing directory', async () => {
    const error = await rejection(() => Adapter.load(join(temporaryDirectory(), 'none')))
    expect(error.code).toBe('IO')
  })
})
