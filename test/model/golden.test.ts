// The golden files themselves: readable, finite, and consistent with the tests' own helpers.
import { describe, expect, test } from 'vitest'
import { expectedNames, expectedTensor, goldenNames, loadGolden } from '../support/golden.js'
import { valuesOf } from '../support/safetensors.js'
import { expectedSlices, gather, sortSlice } from '../support/slices.js'

describe.each(goldenNames)('%s', (name) => {
  const golden = loadGolden(name)

  test('holds finite values that agree with each other', () => {
    for (const raw of golden.expected.values())
      expect(valuesOf(raw).every(Number.isFinite)).toBe(true)
    const tokens = golden.sequences.at(-1)!
    const { shape, values } = expectedTensor(golden, `logits.${tokens.length}`)
    const vocab = shape[1]!
    const row = Array.from(values.subarray(0, vocab))
    const logSum = Math.log(row.reduce((sum, logit) => sum + Math.exp(logit), 0))
    const first = expectedTensor(golden, `logprobs.${tokens.length}`).values[0]!
    expect(row[tokens[1]!]! - logSum).toBeCloseTo(first, 5)
  })

  const runs = golden.runs.filter((run) => run.method === 's2ft')
  test.each(runs.map((run) => [run.name, run] as const))('selection of %s', (_, run) => {
    const slices = expectedSlices(golden, run)
    const prefix = `run.${run.name}.`
    const stored = expectedNames(golden, prefix).filter((key) => key.endsWith('.s2ft_index'))
    expect(slices.map(({ module }) => `${module}.s2ft_index`)).toEqual(stored)
    for (const { module, axis, index } of slices) {
      expect(index).toEqual([...expectedTensor(golden, `${prefix}${module}.s2ft_index`).values])
      const { shape } = expectedTensor(golden, `${prefix}${module}.s2ft_delta`)
      expect(shape[axis === 'rows' ? 0 : 1]).toBe(index.length)
    }
  })
})

test('slices are gathered and sorted along their axis', () => {
  const weight = Float32Array.from([0, 1, 2, 10, 11, 12]) // [2, 3]
  expect([...gather(weight, [2, 3], 'cols', [2, 0])]).toEqual([2, 0, 12, 10])
  expect([...gather(weight, [2, 3], 'rows', [1])]).toEqual([10, 11, 12])
  expect([...sortSlice(Float32Array.of(2, 0, 12, 10), 'cols', [2, 0])]).toEqual([0, 2, 10, 12])
  expect([...sortSlice(Float32Array.of(10, 11, 12, 0, 1, 2), 'rows', [1, 0])]).toEqual([
    0, 1, 2, 10, 11, 12,
  ])
})
