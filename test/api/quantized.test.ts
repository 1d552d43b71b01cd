// Quantized models through the public API: training beside frozen codes, adapters that fit the
// checkpoint, and what is refused.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { Adapter, dora, full, lora, Model, s2ft, Trainer } from '../../lib/index.js'
import { temporaryDirectory } from '../support/directories.js'
import { rejection } from '../support/rejection.js'
import { readSafetensors } from '../support/safetensors.js'

const directory = join(import.meta.dirname, '../../models/tiny')
const kinds = ['int8', 'nf4'] as const
const load = (quantize: 'none' | 'int8' | 'nf4') =>
  Model.load(directory, { device: 'cpu', quantize, threads: 2 })
const tokens = Int32Array.from({ length: 48 }, (_, i) => (i * 37 + (i % 5)) % 640)

/** Stored bits of all linear weights of the blocks: code and scales of a block of 64. */
function expectedBytes(model: Model, kind: (typeof kinds)[number]): number {
  const {
    hiddenSize: d,
    intermediateSize: k,
    layers,
    heads,
    kvHeads,
    headDim,
  } = model.config.native
  const linear = layers * d * (2 * heads * headDim + 2 * kvHeads * headDim + 3 * k)
  const rest = 2 * (model.parameters - linear)
  return rest + (linear / 64) * (kind === 'int8' ? 64 + 4 : 32 + 1 + 4 / 256)
}

describe.each(kinds)('%s', (kind) => {
  test('takes the promised memory, has the checkpoint fingerprint, and cannot be saved', async () => {
    await using plain = await load('none')
    await using model = await load(kind)
    expect(model.quantization).toBe(kind)
    expect(plain.quantization).toBeUndefined()
    expect(model.parameters).toBe(plain.parameters)
    expect(await model.fingerprint()).toBe(await plain.fingerprint())
    // The rest is alignment, and nf4's table of a thousand bytes.
    const expected = expectedBytes(model, kind)
    expect(model.bytes).toBeGreaterThanOrEqual(expected)
    expect(model.bytes).toBeLessThan(expected + 16_000)
    const target = join(temporaryDirectory(), 'saved')
    expect(await rejection(() => model.save(target))).toMatchObject({ code: 'UNSUPPORTED' })
  })

  test('an S2FT adapter trained on it fits the checkpoint and itself', async () => {
    await using model = await load(kind)
    const before = await model.logits(tokens)
    const trainer = new Trainer(model, {
      method: s2ft({ ratios: { down: 0.05, up: 0.05, o: 0.25, q: 0.25 }, seed: 3 }),
      learningRate: 1e-2,
    })
    const losses: number[] = []
    for (let i = 0; i < 8; i++) losses.push((await trainer.step([{ tokens }])).loss)
    expect(losses.at(-1)!).toBeLessThan(losses[0]! - 0.5)
    const trained = await model.logits(tokens)
    const adapter = await trainer.adapter()
    await trainer.dispose()
    expect(await model.logits(tokens)).toEqual(before)

    const saved = join(temporaryDirectory(), 'adapter')
    await adapter.save(saved)
    const config = JSON.parse(readFileSync(join(saved, 'adapter_config.json'), 'utf8'))
    expect(config.base_quantization).toBe(kind)
    const loaded = await Adapter.load(saved)
    expect(loaded.info).toMatchObject({ quantization: kind })
    await model.fuse(loaded)
    expect(await model.logits(tokens)).toEqual(trained)
    await model.unfuse(loaded)
    expect(await model.logits(tokens)).toEqual(before)

    // Into the checkpoint as always: bytes outside the slices are the base's.
    await using plain = await load('none')
    await plain.fuse(loaded)
    const target = join(temporaryDirectory(), 'merged')
    await plain.save(target)
    const base = readSafetensors(join(directory, 'model.safetensors'))
    const merged = readSafetensors(join(target, 'model.safetensors'))
    const name = 'model.layers.1.mlp.down_proj'
    const index = new Set(loaded.tensors.get(`${name}.s2ft_index`)!.data as Int32Array)
    const [from, to] = [base, merged].map(
      (tensors) => new Uint16Array(tensors.get(`${name}.weight`)!.bytes.buffer),
    )
    const columns = base.get(`${name}.weight`)!.shape[1]!
    const changed = [...from!.keys()].filter((at) => from![at] !== to![at])
    expect(changed.length).toBeGreaterThan(0)
    expect(changed.every((at) => index.has(at % columns))).toBe(true)
    for (const untouched of ['self_attn.k_proj', 'self_attn.v_proj', 'mlp.gate_proj']) {
      const tensor = `model.layers.1.${untouched}.weight`
      expect(merged.get(tensor)!.bytes).toEqual(base.get(tensor)!.bytes)
    }
  })

  test.each([
    ['lora', lora({ r: 4, alpha: 8 })],
    ['dora', dora({ r: 4, alpha: 8 })],
  ])('%s trains beside it, and its adapter fuses beside it', async (_, method) => {
    await using model = await load(kind)
    const before = await model.logits(tokens)
    const trainer = new Trainer(model, { method, learningRate: 1e-2 })
    const losses: number[] = []
    for (let i = 0; i < 8; i++) losses.push((await trainer.step([{ tokens }])).loss)
    expect(losses.at(-1)!).toBeLessThan(losses[0]! - 0.5)
    const adapter = await trainer.adapter()
    await trainer.dispose()
    const saved = join(temporaryDirectory(), 'adapter')
    await adapter.save(saved)
    const loaded = await Adapter.load(saved)
    expect(loaded.info).toMatchObject({ quantization: kind })
    await model.fuse(loaded)
    const { loss } = await model.loss([{ tokens }])
    expect(loss).toBeLessThan(losses.at(-1)! + 0.05)
    const generated = await model.generateText(tokens.subarray(0, 5), { maxNewTokens: 4 })
    expect(generated.tokens.length).toBeGreaterThan(0)
    await model.unfuse(loaded)
    expect(await model.logits(tokens)).toEqual(before)
  })

  test('methods that change the base are refused, and leave the model usable', async () => {
    await using model = await load(kind)
    const trainer = new Trainer(model, { method: full(), learningRate: 1e-3 })
    expect(await rejection(() => trainer.step([{ tokens }]))).toMatchObject({ code: 'UNSUPPORTED' })
    await trainer.dispose()
    const other = new Trainer(model, { method: s2ft(), learningRate: 1e-3 })
    await other.step([{ tokens }])
    await other.dispose()
  })
})

test('decoding one token at a time is scoring the whole, on quantized weights too', async () => {
  await using model = await load('nf4')
  const prompt = [...tokens.subarray(0, 6)]
  const { tokens: greedy } = await model.generateText(prompt, { maxNewTokens: 5 })
  const { vocabSize } = model.config.native
  for (const token of greedy) {
    const logits = await model.logits(prompt)
    const last = logits.subarray((prompt.length - 1) * vocabSize)
    expect(last[token]).toBeCloseTo(Math.max(...last), 1)
    prompt.push(token)
  }
})

test('an unknown kind is an argument error', async () => {
  const options = { quantize: 'int4' } as unknown as { quantize: 'nf4' }
  expect(await rejection(() => Model.load(directory, options))).toMatchObject({
    code: 'INVALID_ARGUMENT',
  })
})
