// LoReFT against PyTorch hooks, and its adapter: trained, saved, fused, generated with, refused.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import {
  Adapter,
  lora,
  loreft,
  Model,
  type Tensor,
  type TrainEvent,
  Trainer,
  toLora,
} from '../../lib/index.js'
import { changedAdapter } from '../support/adapters.js'
import { temporaryDirectory } from '../support/directories.js'
import { goldenRoot, relativeError, type Sample } from '../support/golden.js'
import { rejection } from '../support/rejection.js'
import { readSafetensors, valuesOf } from '../support/safetensors.js'

function golden(name: string) {
  const directory = join(goldenRoot, 'loreft', name)
  const facts = JSON.parse(readFileSync(join(directory, 'case.json'), 'utf8'))
  const tensors = readSafetensors(join(directory, 'expected.safetensors'))
  return {
    directory,
    base: join(goldenRoot, facts.base),
    options: facts.options,
    prompt: Int32Array.from(facts.prompt),
    samples: (facts.samples as Record<keyof Sample, number[]>[]).map(({ tokens, labels }) => ({
      tokens: Int32Array.from(tokens),
      labels: Int32Array.from(labels),
    })),
    expected: (tensor: string) => Float32Array.from(valuesOf(tensors.get(tensor)!)),
    names: [...tensors.keys()],
  }
}

const cases = {
  tied: loreft({ r: 3, layers: [2, 0], positions: 'f2+l3' }),
  separate: loreft({ r: 5, positions: 'f1+l2', shareWeights: false }),
}

async function opened(name: keyof typeof cases) {
  const facts = golden(name)
  const model = await Model.load(facts.base, { device: 'cpu', dtype: 'f32' })
  onTestFinished(() => model.dispose())
  const same = { base_fingerprint: await model.fingerprint() }
  const adapter = await changedAdapter(facts.directory, same, {})
  const start = (more: object = {}) => {
    const options = { ...facts.options, ...more }
    return new Trainer(model, { method: cases[name], initialAdapter: adapter, ...options })
  }
  return { ...facts, model, adapter, start }
}

function offRotation({ data, shape }: Tensor): number {
  const [r, d] = shape as [number, number]
  let most = 0
  for (let i = 0; i < r; i++) {
    for (let j = 0; j < r; j++) {
      let dot = i === j ? -1 : 0
      for (let k = 0; k < d; k++) dot += data[i * d + k]! * data[j * d + k]!
      most = Math.max(most, Math.abs(dot))
    }
  }
  return most
}

// PyTorch's float32 differs from its float64 by some 1e-6 here; ten to thirty times that for another
// order of summation, as for the other gradients.
const tolerance = 3e-5

describe.each(Object.keys(cases) as (keyof typeof cases)[])('%s, as PyTorch', (name) => {
  test('logits, scores and what is generated', async () => {
    const { model, adapter, prompt, expected } = await opened(name)
    const before = await model.logits(prompt)
    await model.fuse(adapter)
    const logits = await model.logits(prompt)
    expect(relativeError(logits, expected('logits'))).toBeLessThan(tolerance)
    expect(relativeError(before, logits)).toBeGreaterThan(0.05)
    const generated = Array.from(expected('generated'))
    const settings = { maxNewTokens: generated.length, temperature: 0 }
    const found: number[] = []
    const logProbs: number[] = []
    for await (const event of model.generate(prompt, settings)) {
      found.push(event.token)
      logProbs.push(event.logProb)
    }
    // An end token ends the sequence, which the reference does not know.
    expect(found).toEqual(generated.slice(0, found.length))
    expect(found.length).toBeGreaterThan(0)
    const wanted = expected('logprobs')
    for (const [i, value] of logProbs.entries()) expect(value).toBeCloseTo(wanted[i]!, 4)
    const tokens = [...prompt, ...generated]
    const labels = tokens.map((token, i) => (i < prompt.length ? -100 : token))
    const [scores] = await model.scoreBatch([{ tokens, labels }])
    expect(relativeError(scores!.slice(prompt.length - 1), wanted)).toBeLessThan(tolerance)
    await model.unfuse(adapter)
    expect(await model.logits(prompt)).toEqual(before)
  })

  test.each(['none', 'selective', 'block'] as const)(
    'gradients, recompute %s',
    async (recompute) => {
      const { start, samples, expected, names } = await opened(name)
      await using trainer = start({ recompute })
      const gradients = await trainer.gradients(samples)
      const wanted = names.filter((tensor) => tensor.startsWith('gradient.'))
      expect([...gradients.keys()].map((key) => `gradient.${key}`).sort()).toEqual(wanted.sort())
      for (const [key, found] of gradients) {
        const reference = expected(`gradient.${key}`)
        if (reference.every((value) => value === 0))
          expect(found.some((value) => value !== 0)).toBe(false)
        else expect(relativeError(found, reference), key).toBeLessThan(tolerance)
      }
    },
  )

  test('ten steps end in the same weights', async () => {
    const { start, samples, expected } = await opened(name)
    await using trainer = start()
    const losses: number[] = []
    for (let i = 0; i < 10; i++) losses.push((await trainer.step(samples)).loss)
    expect(relativeError(losses, expected('losses'))).toBeLessThan(tolerance)
    for (const [key, tensor] of (await trainer.adapter()).tensors) {
      // Adam divides by small second moments: early differences grow for a few steps.
      expect(relativeError(tensor.data, expected(`trained.${key}`)), key).toBeLessThan(1e-3)
      if (key.endsWith('loreft_R')) expect(offRotation(tensor)).toBeLessThan(1e-5)
    }
  })
})

describe('loreft', () => {
  test('trained, saved, loaded, fused: the same scores; the base is untouched', async () => {
    const { model, samples } = await opened('separate')
    const before = await model.scoreBatch(samples)
    const trainer = new Trainer(model, {
      method: loreft({ r: 4, dropout: 0.1 }),
      learningRate: 0.01,
    })
    for (let i = 0; i < 3; i++) await trainer.step(samples)
    const trained = await model.scoreBatch(samples)
    const adapter = await trainer.adapter()
    await trainer.dispose()
    expect(await model.scoreBatch(samples)).toEqual(before)
    const folder = temporaryDirectory()
    await adapter.save(folder)
    const loaded = await Adapter.load(folder)
    expect(loaded.info).toEqual(adapter.info)
    expect(loaded.info).toMatchObject({ type: 'loreft', positions: 'f7+l7', layers: [0, 1] })
    // R, W [4, 32] and b behind both layers.
    expect(loaded.parameters).toBe(2 * (2 * 4 * 32 + 4))
    await model.fuse(loaded)
    expect(await model.scoreBatch(samples)).toEqual(trained)
    expect((await rejection(() => model.save(join(folder, 'm')))).code).toBe('UNSUPPORTED')
    expect(existsSync(join(folder, 'm'))).toBe(false)
    const other = await changedAdapter(folder, {}, {})
    expect((await rejection(() => model.fuse(other))).code).toBe('UNSUPPORTED')
    expect((await rejection(() => toLora(loaded, model.config.native))).code).toBe('UNSUPPORTED')
    await model.unfuse(loaded)
    expect(await model.scoreBatch(samples)).toEqual(before)
  })

  test('a checkpoint continues bit by bit, and the plan counts its rows and values', async () => {
    const { model, samples } = await opened('separate')
    const outputDir = temporaryDirectory()
    const method = loreft({ r: 4, positions: 'f3+l4', dropout: 0.2 })
    const options = { method, learningRate: 0.01, batchSize: 2, outputDir }
    const run = async (more: object, resume = false) => {
      await using trainer = new Trainer(model, { ...options, ...more })
      const events: TrainEvent[] = []
      for await (const event of trainer.fit(samples, { resume })) events.push(event)
      return { events, tensors: (await trainer.adapter()).tensors }
    }
    const whole = await run({ numTrainEpochs: 4, outputDir: temporaryDirectory() })
    expect(whole.events.find(({ type }) => type === 'plan')).toMatchObject({
      trainableParameters: 2 * (2 * 4 * 32 + 4),
    })
    await using trainer = new Trainer(model, { ...options, numTrainEpochs: 4, saveSteps: 3 })
    for await (const event of trainer.fit(samples)) if (event.type === 'checkpoint') break
    await trainer.dispose()
    const resumed = await run({ numTrainEpochs: 4, saveSteps: 3 }, true)
    expect(resumed.tensors).toEqual(whole.tensors)
  })

  test('positions, layers, rank and prompts are checked', async () => {
    const { model } = await opened('separate')
    for (const positions of ['', 'f0', 'f1l1', 'l1+f1', 'f1+', '7', 'all']) {
      const { code } = await rejection(() => loreft({ positions }))
      expect(code, positions).toBe('INVALID_ARGUMENT')
    }
    expect(loreft({ layers: [3, 1, 3] }).layers).toEqual([1, 3])
    const all = { tokens: [1, 2, 3, 4] }
    for (const method of [loreft({ layers: [2] }), loreft({ r: 33 }), loreft()]) {
      await using trainer = new Trainer(model, { method })
      expect((await rejection(() => trainer.step([all]))).code).toBe('INVALID_ARGUMENT')
    }
    const labels = [-100, -100, 3, 4]
    await using trainer = new Trainer(model, { method: loreft() })
    await trainer.step([all, { ...all, labels }])
    await using whole = new Trainer(model, { method: loreft() })
    const data = [{ ...all, labels }, all]
    const error = await rejection(() => whole.fit(data).next())
    expect(error.code).toBe('INVALID_DATA')
    expect(error.message).toMatch(/data\[1\]: expected a prompt/)
  })

  test('files are not trusted', async () => {
    const { model, directory, adapter } = await opened('tied')
    const name = 'model.layers.0.loreft_R'
    const rotation = adapter.tensors.get(name)!
    const scaled = (by: number): Tensor => ({
      ...rotation,
      data: Float32Array.from(rotation.data as Float32Array, (value) => by * value),
    })
    const wrong: [object, Record<string, Tensor | undefined>, string][] = [
      [{ positions: 'f0+l0' }, {}, 'CORRUPT_FILE'],
      [{ layers: [2, 0] }, {}, 'CORRUPT_FILE'],
      [{ layers: [0] }, {}, 'CORRUPT_FILE'],
      [{ share_weights: false }, {}, 'CORRUPT_FILE'],
      [{ r: 4 }, {}, 'SHAPE_MISMATCH'],
      [{}, { [name]: undefined }, 'CORRUPT_FILE'],
      [{}, { [name]: scaled(1.1) }, 'CORRUPT_FILE'],
      [{}, { [name]: scaled(Number.NaN) }, 'CORRUPT_FILE'],
      [{}, { extra: rotation }, 'CORRUPT_FILE'],
    ]
    for (const [config, tensors, code] of wrong) {
      const error = await rejection(() => changedAdapter(directory, config, tensors))
      expect(error.code, JSON.stringify(config)).toBe(code)
    }
    const other = await Model.load(join(goldenRoot, 'llama-gqa'), { device: 'cpu', dtype: 'f32' })
    onTestFinished(() => other.dispose())
    expect((await rejection(() => other.fuse(adapter, { force: true }))).code).toMatch(/MISMATCH/)
    await using trainer = new Trainer(model, { method: lora(), initialAdapter: adapter })
    const { code } = await rejection(() => trainer.adapter())
    expect(code).toBe('ADAPTER_MISMATCH')
  })
})
