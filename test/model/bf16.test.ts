// bf16 weights and activations against float64, with PyTorch's own bf16 run as the yardstick.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { full, Model, Trainer } from '../../lib/index.js'
import {
  expectedNames,
  expectedTensor,
  loadGolden,
  type MeasuredError,
  relativeError,
} from '../support/golden.js'
import { expectedSlices, sortSlice } from '../support/slices.js'
import { s2ftTrainer, tensorOf, trainAsExpected, valuesIn } from '../support/trainers.js'

// A bf16 value carries 8 significant bits, so every stored activation is off by up to 2^-8 of
// itself. Some twenty such roundings between embedding and logits give PyTorch 2.4% on the logits,
// 4.2% on the worst gradient and 4.1% on the worst slice after ten steps. Roundings of two correct
// programs fall independently: three times PyTorch's own error, and at least one rounding, is the
// limit. A wrong scale, axis or missing term is off by tens of percent.
const golden = loadGolden('llama-bf16')
const limit = (kind: keyof MeasuredError) => Math.max(3 * golden.bfloat16Error![kind], 2 ** -8)

describe('llama-bf16 in bf16', () => {
  let model: Model
  beforeAll(async () => {
    model = await Model.load(golden.directory, { device: 'cpu', dtype: 'bf16' })
  })
  afterAll(() => model?.dispose())

  test.each(golden.sequences.map((tokens) => ({ length: tokens.length, tokens })))(
    'logits of $length tokens',
    async ({ length, tokens }) => {
      const { values } = expectedTensor(golden, `logits.${length}`)
      expect(relativeError(await model.logits(tokens), values)).toBeLessThan(limit('logits'))
    },
  )

  test('log-probabilities', async () => {
    const tokens = golden.sequences.at(-1)!
    const { values } = expectedTensor(golden, `logprobs.${tokens.length}`)
    expect(relativeError(await model.logProbs(tokens), values)).toBeLessThan(limit('logprobs'))
  })

  test('loss', async () => {
    const { loss } = await model.loss(golden.batches[0]!)
    expect(relativeError([loss], expectedTensor(golden, 'loss').values)).toBeLessThan(limit('loss'))
  })

  test('every gradient', async () => {
    const trainer = new Trainer(model, { method: full(), learningRate: 1e-3, maxSteps: 1 })
    const gradients = await trainer.gradients(golden.batches[0]!)
    await trainer.dispose()
    for (const name of expectedNames(golden, 'gradient.')) {
      const { values } = expectedTensor(golden, `gradient.${name}`)
      expect(relativeError(gradients.get(name) ?? [], values), name).toBeLessThan(limit('gradient'))
    }
  })

  test('ten S²FT steps over an fp32 master of the slice', async () => {
    const run = golden.runs[0]!
    const trainer = s2ftTrainer(model, run)
    try {
      const errors = await trainAsExpected(trainer, golden, run)
      expect(errors.losses).toBeLessThan(limit('losses'))
      expect(errors.gradNorms).toBeLessThan(limit('gradNorms'))
      const { tensors } = await trainer.adapter()
      for (const { module, axis } of expectedSlices(golden, run)) {
        const delta = valuesIn(tensorOf(tensors, `${module}.s2ft_delta`))
        const index = tensorOf(tensors, `${module}.s2ft_index`).data
        const { values } = expectedTensor(golden, `run.${run.name}.${module}.s2ft_delta`)
        const error = relativeError(sortSlice(delta, axis, index), values)
        expect(error, module).toBeLessThan(limit('trained'))
      }
    } finally {
      await trainer.dispose()
    }
  })
})
