// Gradients against PyTorch: every parameter, and every kind of S²FT slice cut from them.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { full, Model, Trainer } from '../../lib/index.js'
import {
  expectedNames,
  expectedTensor,
  goldenNames,
  goldenRuns,
  loadGolden,
  relativeError,
} from '../support/golden.js'
import { ascending, expectedSlices, gather } from '../support/slices.js'
import { loraTrainer, s2ftTrainer, tensorOf, valuesIn } from '../support/trainers.js'

// PyTorch's own float32 gradients are up to 3e-6 off float64 (case.json, float32Error); attention
// weights pass through several cancelling sums. Ten times that for another order of summation.
const tolerance = 3e-5

describe.each(goldenNames)('%s', (name) => {
  const golden = loadGolden(name)
  let gradients: Map<string, Float32Array>
  let model: Model
  beforeAll(async () => {
    model = await Model.load(golden.directory, { device: 'cpu', dtype: 'f32' })
    const trainer = new Trainer(model, { method: full(), learningRate: 1e-3, maxSteps: 1 })
    gradients = await trainer.gradients(golden.batches[0]!)
    await trainer.dispose()
  })
  afterAll(() => model?.dispose())

  test('full fine-tuning has a gradient for each parameter and nothing else', () => {
    expect([...gradients.keys()].sort()).toEqual(expectedNames(golden, 'gradient.'))
  })

  test.each(expectedNames(golden, 'gradient.'))('%s', (module) => {
    const expected = expectedTensor(golden, `gradient.${module}`)
    expect(relativeError(gradients.get(module) ?? [], expected.values)).toBeLessThan(tolerance)
  })
})

describe('slices are cut from the full gradient, in the order of the adapter’s index', () => {
  test.each(goldenRuns('s2ft'))('%s', async (_, { golden, run }) => {
    const model = await Model.load(golden.directory, { device: 'cpu', dtype: 'f32' })
    const trainer = s2ftTrainer(model, run)
    try {
      const slices = expectedSlices(golden, run)
      const gradients = await trainer.gradients(golden.batches[0]!)
      const { tensors } = await trainer.adapter()
      expect([...gradients.keys()].sort()).toEqual(slices.map((slice) => slice.module))
      for (const { module, axis, index } of slices) {
        const found = tensorOf(tensors, `${module}.s2ft_index`)
        expect(found.dtype).toBe('I32')
        expect(ascending(found.data), `${module}: selected indices`).toEqual(index)
        const weight = expectedTensor(golden, `gradient.${module}`)
        const [out, inputs] = weight.shape as [number, number]
        const expected = gather(weight.values, [out, inputs], axis, found.data)
        expect(relativeError(gradients.get(module)!, expected), module).toBeLessThan(tolerance)

        const delta = tensorOf(tensors, `${module}.s2ft_delta`)
        const size = index.length
        expect(delta.shape).toEqual(axis === 'rows' ? [size, inputs] : [out, size])
        expect(
          valuesIn(delta).every((value) => value === 0),
          `${module} untrained`,
        ).toBe(true)
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
      const gradients = await trainer.gradients(golden.batches[0]!)
      const names = expectedNames(golden, `run.${run.name}.gradient.`)
      expect([...gradients.keys()].sort()).toEqual(names)
      for (const name of names) {
        const expected = expectedTensor(golden, `run.${run.name}.gradient.${name}`)
        expect(relativeError(gradients.get(name)!, expected.values), name).toBeLessThan(tolerance)
      }
    } finally {
      await trainer.dispose()
      await model.dispose()
    }
  })
})

test('asking for gradients changes nothing', async () => {
  const [, { golden, run }] = goldenRuns('s2ft')[0]!
  const model = await Model.load(golden.directory, { device: 'cpu', dtype: 'f32' })
  const trainer = s2ftTrainer(model, run)
  try {
    const first = await trainer.gradients(golden.batches[0]!)
    const other = await trainer.gradients(golden.batches[1]!)
    expect(other).not.toEqual(first)
    expect(await trainer.gradients(golden.batches[0]!)).toEqual(first)
  } finally {
    await trainer.dispose()
    await model.dispose()
  }
})
