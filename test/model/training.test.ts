// Ten AdamW steps against PyTorch: schedule, warm-up, clipping, decay, accumulation.
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { Model } from '../../lib/index.js'
import { temporaryDirectory } from '../support/directories.js'
import { expectedNames, expectedTensor, goldenRuns, relativeError } from '../support/golden.js'
import { readSafetensors, valuesOf } from '../support/safetensors.js'
import { expectedSlices, sortSlice } from '../support/slices.js'
import {
  countTrained,
  fullTrainer,
  loraTrainer,
  s2ftTrainer,
  tensorOf,
  trainAsExpected,
  valuesIn,
} from '../support/trainers.js'

// Ten float32 steps of PyTorch end up to 8e-6 off float64 in the weights' change and 4e-6 in the
// gradient norms (case.json, float32Error): Adam divides small gradients by their own size, so
// their rounding shows. GaLore, which depends on singular vectors too, ends up to 3e-5 off. Several
// times that for another order of summation.
// Learning rates are plain double arithmetic; only the golden file rounds them to float32.
const tolerance = { losses: 1e-5, gradNorms: 5e-5, trained: 1e-4, learningRates: 1e-7 }

describe('S²FT', () => {
  test.each(goldenRuns('s2ft'))('%s', async (_, { golden, run }) => {
    const model = await Model.load(golden.directory, { device: 'cpu', dtype: 'f32' })
    const trainer = s2ftTrainer(model, run)
    try {
      const errors = await trainAsExpected(trainer, golden, run)
      expect(errors.trainedTokens).toEqual(run.steps.map((step) => countTrained(golden, step)))
      expect(errors.losses, 'losses').toBeLessThan(tolerance.losses)
      expect(errors.gradNorms, 'gradient norms').toBeLessThan(tolerance.gradNorms)
      expect(errors.learningRates, 'learning rates').toBeLessThan(tolerance.learningRates)

      const { tensors } = await trainer.adapter()
      const slices = expectedSlices(golden, run)
      expect([...tensors.keys()].sort()).toEqual(
        slices.flatMap(({ module }) => [`${module}.s2ft_delta`, `${module}.s2ft_index`]),
      )
      for (const { module, axis } of slices) {
        const delta = valuesIn(tensorOf(tensors, `${module}.s2ft_delta`))
        const index = tensorOf(tensors, `${module}.s2ft_index`).data
        const { values } = expectedTensor(golden, `run.${run.name}.${module}.s2ft_delta`)
        const error = relativeError(sortSlice(delta, axis, index), values)
        expect(error, module).toBeLessThan(tolerance.trained)
      }
    } finally {
      await trainer.dispose()
      await model.dispose()
    }
  })
})

describe('LoRA and DoRA', () => {
  test.each(goldenRuns('lora', 'dora'))('%s', async (_, { golden, run }) => {
    const model = await Model.load(golden.directory, { device: 'cpu', dtype: 'f32' })
    const trainer = await loraTrainer(model, golden, run)
    try {
      const errors = await trainAsExpected(trainer, golden, run)
      expect(errors.losses, 'losses').toBeLessThan(tolerance.losses)
      expect(errors.gradNorms, 'gradient norms').toBeLessThan(tolerance.gradNorms)
      expect(errors.learningRates, 'learning rates').toBeLessThan(tolerance.learningRates)

      const { tensors } = await trainer.adapter()
      const names = expectedNames(golden, `run.${run.name}.model.`).map((name) => `model.${name}`)
      expect([...tensors.keys()].sort()).toEqual(names)
      for (const name of names) {
        const { shape, values } = expectedTensor(golden, `run.${run.name}.${name}`)
        const tensor = tensorOf(tensors, name)
        expect(tensor.shape, name).toEqual(shape)
        expect(relativeError(valuesIn(tensor), values), name).toBeLessThan(tolerance.trained)
      }
    } finally {
      await trainer.dispose()
      await model.dispose()
    }
  })
})

describe('full fine-tuning and GaLore', () => {
  test.each(goldenRuns('full', 'galore'))('%s', async (_, { golden, run }) => {
    const model = await Model.load(golden.directory, { device: 'cpu', dtype: 'f32' })
    try {
      const trainer = fullTrainer(model, run)
      const errors = await trainAsExpected(trainer, golden, run)
      expect(errors.losses, 'losses').toBeLessThan(tolerance.losses)
      expect(errors.gradNorms, 'gradient norms').toBeLessThan(tolerance.gradNorms)
      expect(errors.learningRates, 'learning rates').toBeLessThan(tolerance.learningRates)
      await trainer.dispose()

      // The tuned weights stay in the model, and a saved checkpoint holds them.
      const saved = temporaryDirectory()
      await model.save(saved)
      const base = readSafetensors(join(golden.directory, 'model.safetensors'))
      const tuned = readSafetensors(join(saved, 'model.safetensors'))
      expect([...tuned.keys()].sort()).toEqual([...base.keys()].sort())
      for (const [name, raw] of base) {
        const before = valuesOf(raw)
        const change = valuesOf(tuned.get(name)!).map((value, i) => value - before[i]!)
        const key = `run.${run.name}.${name.replace(/\.weight$/, '')}.delta`
        const error = relativeError(change, expectedTensor(golden, key).values)
        expect(error, name).toBeLessThan(tolerance.trained)
      }
    } finally {
      await model.dispose()
    }
  })
})

test('disposing an S²FT trainer leaves the base model as it was', async () => {
  const [, { golden, run }] = goldenRuns('s2ft')[0]!
  const model = await Model.load(golden.directory, { device: 'cpu', dtype: 'f32' })
  try {
    const tokens = golden.sequences.at(-1)!
    const before = await model.logits(tokens)
    const trainer = s2ftTrainer(model, run)
    await trainAsExpected(trainer, golden, run)
    await trainer.dispose()
    expect(await model.logits(tokens)).toEqual(before)
  } finally {
    await model.dispose()
  }
})
