// Logits, log-probabilities and losses against PyTorch, for every model family and rope scaling.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Model } from '../../lib/index.js'
import { copyModel } from '../support/directories.js'
import {
  errorOfLargest,
  expectedTensor,
  type GoldenCase,
  goldenNames,
  loadGolden,
  relativeError,
  type Sample,
} from '../support/golden.js'

// Sums of fewer than a hundred float32 products: PyTorch's own float32 run is 1e-6 off float64.
// 1e-5 leaves room for another order of summation and other exp, sin and cos.
const tolerance = 1e-5

describe.each(goldenNames)('%s in f32', (name) => {
  const golden = loadGolden(name)
  let model: Model
  beforeAll(async () => {
    model = await Model.load(golden.directory, { device: 'cpu', dtype: 'f32' })
  })
  afterAll(() => model?.dispose())

  test.each(golden.sequences.map((tokens) => ({ length: tokens.length, tokens })))(
    'logits of $length tokens',
    async ({ length, tokens }) => {
      const expected = expectedTensor(golden, `logits.${length}`)
      const logits = await model.logits(tokens)
      expect(logits).toBeInstanceOf(Float32Array)
      expect(logits.length).toBe(expected.shape[0]! * expected.shape[1]!)
      expect(errorOfLargest(logits, expected.values)).toBeLessThan(tolerance)
    },
  )

  test.each(golden.sequences.filter((t) => t.length > 1).map((t) => ({ length: t.length, t })))(
    'log-probabilities of $length tokens',
    async ({ length, t }) => {
      const expected = expectedTensor(golden, `logprobs.${length}`)
      expect(relativeError(await model.logProbs(t), expected.values)).toBeLessThan(tolerance)
    },
  )

  test('loss of a packed batch of samples of 11, 2 and 17 tokens', async () => {
    const { loss, tokens } = await model.loss(golden.batches[0]!)
    expect(tokens).toBe(golden.trainedTokens)
    expect(relativeError([loss], expectedTensor(golden, 'loss').values)).toBeLessThan(tolerance)
  })
})

describe('a batch', () => {
  let golden: GoldenCase
  let model: Model
  beforeAll(async () => {
    // Rope frequencies that depend on the sample's length show a leak that others would hide.
    golden = loadGolden('llama-dynamic-rope')
    model = await Model.load(golden.directory, { device: 'cpu', dtype: 'f32' })
  })
  afterAll(() => model?.dispose())

  test('is the token-weighted mean of its samples, in any order', async () => {
    const batch = golden.batches[0]!
    let sum = 0
    let count = 0
    for (const sample of batch) {
      const { loss, tokens } = await model.loss([sample])
      sum += loss * tokens
      count += tokens
    }
    for (const order of [batch, batch.toReversed()] as Sample[][]) {
      const { loss, tokens } = await model.loss(order)
      expect(tokens).toBe(count)
      expect(relativeError([loss], [sum / count])).toBeLessThan(tolerance)
    }
  })

  test('gives bitwise the same result twice', async () => {
    const tokens = golden.sequences.at(-1)!
    const first = await model.logits(tokens)
    await model.logits(golden.sequences[1]!)
    expect(await model.logits(tokens)).toEqual(first)
  })

  test('needs labels[0] for nothing', async () => {
    const [sample] = golden.batches[2]!
    const labels = sample!.labels.slice()
    labels[0] = -100
    expect(await model.loss([{ tokens: sample!.tokens, labels }])).toEqual(
      await model.loss([sample!]),
    )
  })
})

test('mistral: no window and a window as long as the sequence are the same', async () => {
  const golden = loadGolden('mistral')
  const tokens = golden.sequences.at(-1)!
  const logits: Float32Array[] = []
  for (const sliding_window of [null, tokens.length]) {
    const directory = copyModel('mistral', {
      config: (config) => Object.assign(config, { sliding_window }),
    })
    const model = await Model.load(directory, { device: 'cpu', dtype: 'f32' })
    logits.push(await model.logits(tokens))
    await model.dispose()
  }
  expect(relativeError(logits[0]!, logits[1]!)).toBeLessThan(tolerance)
  const { values } = expectedTensor(golden, `logits.${tokens.length}`)
  expect(relativeError(logits[0]!, values)).toBeGreaterThan(1e-2)
})

describe('the same model under another spelling of its configuration', () => {
  type Config = Record<string, unknown>
  const respell = (config: Config, changes: Config) => {
    delete config.rope_parameters
    delete config.rope_scaling
    delete config.rope_theta
    Object.assign(config, changes)
  }
  const llama3 = {
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 32,
  }
  const spellings: [string, string, (config: Config) => void][] = [
    [
      'llama-llama3-rope',
      'rope_scaling with rope_type and a top-level rope_theta, as Llama 3.1 has it',
      (config) =>
        respell(config, { rope_theta: 100, rope_scaling: { rope_type: 'llama3', ...llama3 } }),
    ],
    [
      'llama-dynamic-rope',
      'rope_scaling with type',
      (config) =>
        respell(config, { rope_theta: 500, rope_scaling: { type: 'dynamic', factor: 3 } }),
    ],
    [
      'llama-linear-rope',
      'rope_parameters',
      (config) =>
        respell(config, {
          rope_parameters: { rope_type: 'linear', factor: 2.5, rope_theta: 500 },
        }),
    ],
    [
      'llama-gqa',
      'no rope fields at all: theta 10000, no scaling',
      (config) => respell(config, {}),
    ],
    [
      'llama-gqa',
      'no head_dim, torch_dtype for dtype',
      (config) => {
        delete config.head_dim
        delete config.dtype
        config.torch_dtype = 'float32'
      },
    ],
    [
      'qwen2-sliding',
      'no layer_types: max_window_layers says which layers have a window',
      (config) => {
        delete config.layer_types
      },
    ],
  ]

  test.each(spellings)('%s: %s', async (name, _, change) => {
    const golden = loadGolden(name)
    const directory = copyModel(name, { config: change })
    const model = await Model.load(directory, { device: 'cpu', dtype: 'f32' })
    try {
      for (const tokens of golden.sequences) {
        const expected = expectedTensor(golden, `logits.${tokens.length}`)
        expect(errorOfLargest(await model.logits(tokens), expected.values)).toBeLessThan(tolerance)
      }
    } finally {
      await model.dispose()
    }
  })
})
