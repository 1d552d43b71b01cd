// Wrong calls of a model or a trainer are refused before anything changes.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Model, s2ft, Trainer } from '../../lib/index.js'
import { copyModel } from '../support/directories.js'
import { type GoldenCase, loadGolden, type Module, type Sample } from '../support/golden.js'
import { rejection } from '../support/rejection.js'
import { valuesOf } from '../support/safetensors.js'
import { tensorOf, valuesIn } from '../support/trainers.js'

const sample = (tokens: number[], labels = tokens): Sample => ({
  tokens: Int32Array.from(tokens),
  labels: Int32Array.from(labels),
})
const down = { down: [[1], [2]] }

// llama-gqa: 67 tokens in the vocabulary, 2 layers, 4 query and 2 key/value heads, 53 channels.
let golden: GoldenCase
let model: Model
beforeAll(async () => {
  golden = loadGolden('llama-gqa')
  model = await Model.load(golden.directory, { device: 'cpu', dtype: 'f32' })
})
afterAll(() => model?.dispose())

const badBatches: [string, Sample[], RegExp][] = [
  ['no sample', [], /empty|at least one|no sample/i],
  ['no token', [sample([])], /empty|token/i],
  ['a token beyond the vocabulary', [sample([1, 67, 2])], /67/],
  ['a negative token', [sample([1, -3, 2])], /-3/],
  ['a label beyond the vocabulary', [sample([1, 2, 3], [-100, 67, 3])], /67/],
  ['a negative label other than -100', [sample([1, 2, 3], [-100, -1, 3])], /-1\b/],
  ['labels of another length', [sample([1, 2, 3], [1, 2])], /3\D+2|2\D+3/],
  ['no trained label', [sample([1, 2, 3], [-100, -100, -100])], /label|trained/i],
  ['only the first label trained', [sample([1, 2, 3], [1, -100, -100])], /label|trained/i],
  ['a single token, which predicts nothing', [sample([5])], /label|trained/i],
]

describe('a batch with', () => {
  test.each(badBatches)('%s', async (_, batch, message) => {
    const trainer = new Trainer(model, {
      method: s2ft({ select: down, seed: 0 }),
      learningRate: 1e-2,
      maxSteps: 1,
    })
    try {
      for (const call of [
        () => model.loss(batch),
        () => trainer.gradients(batch),
        () => trainer.step(batch),
      ]) {
        const error = await rejection(call)
        expect(['INVALID_ARGUMENT', 'INVALID_DATA']).toContain(error.code)
        expect(error.message).toMatch(message)
      }
    } finally {
      await trainer.dispose()
    }
  })

  test('logits and log-probabilities check their tokens too', async () => {
    for (const tokens of [Int32Array.of(), Int32Array.of(0, 67), Int32Array.of(-1)]) {
      expect((await rejection(() => model.logits(tokens))).code).toBe('INVALID_ARGUMENT')
      expect((await rejection(() => model.logProbs(tokens))).code).toBe('INVALID_ARGUMENT')
    }
    expect((await rejection(() => model.logits([1, 2.5]))).code).toBe('INVALID_ARGUMENT')
  })
})

describe('a selection with', () => {
  const selections: [string, Partial<Record<Module, number[][]>>, RegExp][] = [
    ['a query head out of range', { q: [[4], []] }, /\bq\b.*4|4.*\bq\b/],
    ['a key head out of range', { k: [[0], [2]] }, /\bk\b.*2|2.*\bk\b/],
    ['a channel out of range', { down: [[53], [0]] }, /53/],
    ['a negative channel', { up: [[-1], [0]] }, /-1/],
    ['a channel that is not whole', { up: [[1.5], [0]] }, /1\.5/],
    ['a channel twice', { gate: [[3, 3], [0]] }, /3/],
    ['too few layers', { down: [[1]] }, /layer|1\D+2|2\D+1/i],
    ['too many layers', { down: [[1], [1], [1]] }, /layer|3\D+2|2\D+3/i],
    ['nothing selected', { down: [[], []] }, /nothing|select|empty|no /i],
  ]
  test.each(selections)('%s', async (_, select, message) => {
    const error = await rejection(async () => {
      const trainer = new Trainer(model, {
        method: s2ft({ select, seed: 0 }),
        learningRate: 1e-2,
        maxSteps: 1,
      })
      try {
        await trainer.gradients(golden.batches[0]!)
      } finally {
        await trainer.dispose()
      }
    })
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toMatch(message)
  })
})

describe('options', () => {
  const options: [string, object][] = [
    ['a negative learning rate', { learningRate: -1 }],
    ['a learning rate that is not a number', { learningRate: Number.NaN }],
    ['a beta of 1', { adamBeta2: 1 }],
    ['a negative gradient norm', { maxGradNorm: -0.5 }],
    ['an unknown schedule', { lrScheduler: 'polynomial' }],
    ['half a step of warm-up', { warmupSteps: 1.5 }],
  ]
  test.each(options)('%s', async (_, wrong) => {
    const error = await rejection(async () => {
      const trainer = new Trainer(model, {
        method: s2ft({ select: down, seed: 0 }),
        learningRate: 1e-2,
        maxSteps: 1,
        ...wrong,
      })
      await trainer.dispose()
    })
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toContain(Object.keys(wrong)[0])
  })

  test.each([{ dtype: 'f64' }, { device: 'tpu' }])('Model.load with %o', async (wrong) => {
    const load = () =>
      Model.load(golden.directory, { device: 'cpu', dtype: 'f32', ...wrong } as never)
    const error = await rejection(load)
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toContain(Object.values(wrong)[0])
  })
})

test('a NaN weight stops the step, names the sample and trains nothing', async () => {
  // Only the second sample holds token 66.
  const directory = copyModel('llama-gqa', {
    tensors: (tensors) => {
      const embedding = tensors.get('model.embed_tokens.weight')!
      valuesOf(embedding)[66 * 32] = Number.NaN
    },
  })
  const broken = await Model.load(directory, { device: 'cpu', dtype: 'f32' })
  const trainer = new Trainer(broken, {
    method: s2ft({ select: down, seed: 0 }),
    learningRate: 1e-2,
    maxSteps: 2,
  })
  try {
    const healthy = [sample([1, 2, 3]), sample([4, 5, 6])]
    const error = await rejection(() => trainer.step([sample([1, 2, 3]), sample([4, 66, 6])]))
    expect(error.code).toBe('NOT_FINITE')
    expect(error.details).toMatchObject({ sample: 1 })
    const { tensors } = await trainer.adapter()
    for (const layer of [0, 1]) {
      const delta = tensorOf(tensors, `model.layers.${layer}.mlp.down_proj.s2ft_delta`)
      expect(valuesIn(delta).every((value) => value === 0)).toBe(true)
    }
    const { loss } = await trainer.step(healthy)
    expect(Number.isFinite(loss)).toBe(true)
  } finally {
    await trainer.dispose()
    await broken.dispose()
  }
})

test('a disposed model or trainer says so', async () => {
  const gone = await Model.load(golden.directory, { device: 'cpu', dtype: 'f32' })
  const trainer = new Trainer(gone, {
    method: s2ft({ select: down, seed: 0 }),
    learningRate: 1e-2,
    maxSteps: 1,
  })
  await trainer.dispose()
  await trainer.dispose()
  expect((await rejection(() => trainer.step(golden.batches[0]!))).code).toBe('DISPOSED')
  await gone.dispose()
  await gone.dispose()
  expect((await rejection(() => gone.logits(Int32Array.of(1)))).code).toBe('DISPOSED')
})
