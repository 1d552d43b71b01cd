// The low-level functions against formulas written out in doubles, at odd sizes.
import { describe, expect, test } from 'vitest'
import {
  adamw,
  coPermute,
  inverseOrder,
  type Matrix,
  partialLinearBackward,
  partialLinearForward,
  selectionOrder,
} from '../../lib/index.js'

let state = Date.now() % 2 ** 31
console.log(`seed ${state}`)
function uniform() {
  state = (Math.imul(state, 1664525) + 1013904223) | 0
  return state / 2 ** 31
}

const random = (rows: number, cols: number): Matrix => ({
  data: Float32Array.from({ length: rows * cols }, uniform),
  rows,
  cols,
})
const at = (m: Matrix, i: number, j: number) => m.data[i * m.cols + j]!

/** sum over t of a(t) b(t), in doubles. */
function dot(n: number, a: (t: number) => number, b: (t: number) => number) {
  let sum = 0
  for (let t = 0; t < n; t++) sum += a(t) * b(t)
  return sum
}

function expectMatrix(
  found: Matrix,
  rows: number,
  cols: number,
  value: (i: number, j: number) => number,
  terms: number,
) {
  expect([found.rows, found.cols, found.data.length]).toEqual([rows, cols, rows * cols])
  // Each of `terms` f32 additions of values below 1 rounds by at most 2^-24 of the sum.
  const tolerance = terms * terms * 2 ** -24 + 1e-6
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < cols; j++)
      expect(Math.abs(at(found, i, j) - value(i, j))).toBeLessThanOrEqual(tolerance)
}

const sizes = [
  { tokens: 1, input: 1, output: 1 },
  { tokens: 7, input: 13, output: 5 },
  { tokens: 33, input: 17, output: 67 },
]

describe.each(sizes)('a linear layer of %o', ({ tokens, input, output }) => {
  const x = random(tokens, input)
  const weight = random(output, input)
  const dy = random(tokens, output)

  test('forward', async () => {
    const y = await partialLinearForward(x, weight)
    const value = (i: number, j: number) =>
      dot(
        input,
        (t) => at(x, i, t),
        (t) => at(weight, j, t),
      )
    expectMatrix(y, tokens, output, value, input)
  })

  test('backward of rows and of columns', async () => {
    const gradient = (o: number, i: number) =>
      dot(
        tokens,
        (t) => at(dy, t, o),
        (t) => at(x, t, i),
      )
    const through = (t: number, i: number) =>
      dot(
        output,
        (o) => at(dy, t, o),
        (o) => at(weight, o, i),
      )
    const rows = { axis: 'rows', begin: output >> 1, count: output - (output >> 1) } as const
    const byRows = await partialLinearBackward(dy, weight, x, rows)
    expectMatrix(byRows.dx, tokens, input, through, output)
    expectMatrix(byRows.dw, rows.count, input, (o, i) => gradient(rows.begin + o, i), tokens)
    const cols = { axis: 'cols', begin: input >> 1, count: input - (input >> 1) } as const
    const kept = random(tokens, cols.count)
    for (let t = 0; t < tokens; t++)
      for (let i = 0; i < cols.count; i++) kept.data[t * cols.count + i] = at(x, t, cols.begin + i)
    const byCols = await partialLinearBackward(dy, weight, kept, cols)
    expectMatrix(byCols.dx, tokens, input, through, output)
    expectMatrix(byCols.dw, output, cols.count, (o, i) => gradient(o, cols.begin + i), tokens)
  })
})

test('co-permutation keeps the function and is undone bit for bit', async () => {
  const [d, k] = [11, 23]
  const [up, down, x] = [random(k, d), random(d, k), random(5, d)]
  const apply = async (up: Matrix, down: Matrix) =>
    partialLinearForward(await partialLinearForward(x, up), down)
  const order = selectionOrder(k, [20, 3, 7])
  expect([...order.subarray(0, 4)]).toEqual([20, 3, 7, 0])
  const permuted = await coPermute({ producers: [up], consumers: [down] }, order)
  expect(at(permuted.producers[0]!, 1, 4)).toBe(at(up, 3, 4))
  expect(at(permuted.consumers[0]!, 4, 1)).toBe(at(down, 4, 3))
  const before = await apply(up, down)
  const after = await apply(permuted.producers[0]!, permuted.consumers[0]!)
  expectMatrix(after, 5, d, (i, j) => at(before, i, j), k)
  const back = await coPermute(permuted, inverseOrder(order))
  expect(back.producers[0]!.data).toEqual(up.data)
  expect(back.consumers[0]!.data).toEqual(down.data)
})

test('AdamW follows its formula for five steps', async () => {
  const n = 37
  let value = random(1, n).data
  let first = new Float32Array(n)
  let second = new Float32Array(n)
  const expected = Float64Array.from(value)
  const m = new Float64Array(n)
  const v = new Float64Array(n)
  for (let step = 1; step <= 5; step++) {
    const gradient = random(1, n).data
    ;({ value, first, second } = await adamw(
      { value, gradient, first, second },
      { learningRate: 1e-2, weightDecay: 0.1, step },
    ))
    for (let i = 0; i < n; i++) {
      const g = gradient[i]!
      m[i] = 0.9 * m[i]! + 0.1 * g
      v[i] = 0.999 * v[i]! + 0.001 * g * g
      const update = m[i]! / (1 - 0.9 ** step) / (Math.sqrt(v[i]! / (1 - 0.999 ** step)) + 1e-8)
      expected[i] = expected[i]! * (1 - 1e-2 * 0.1) - 1e-2 * update
      // f32 state: a few roundings of values near 1 a step.
      expect(Math.abs(value[i]! - expected[i]!)).toBeLessThan(5e-6)
    }
  }
})

test('bad input is refused', async () => {
  const x = random(2, 3)
  const refused = (call: Promise<unknown>, code: string) =>
    expect(call).rejects.toMatchObject({ name: 'S2FTError', code })
  await refused(partialLinearForward(x, random(2, 4)), 'SHAPE_MISMATCH')
  await refused(partialLinearForward({ ...x, rows: 3 }, x), 'SHAPE_MISMATCH')
  await refused(partialLinearForward({ ...x, rows: -1 }, x), 'SHAPE_MISMATCH')
  await refused(coPermute({ producers: [x] }, Int32Array.of(0, 0)), 'INVALID_ARGUMENT')
  await refused(coPermute({ consumers: [x] }, Int32Array.of(0, 1)), 'SHAPE_MISMATCH')
  const slice = { axis: 'rows', begin: 1, count: 2 } as const
  await refused(partialLinearBackward(random(2, 2), random(2, 3), x, slice), 'INVALID_ARGUMENT')
  const f = new Float32Array(2)
  await refused(
    adamw(
      { value: f, gradient: f, first: f, second: new Float32Array(1) },
      { learningRate: 1, step: 1 },
    ),
    'SHAPE_MISMATCH',
  )
  expect(() => selectionOrder(4, [1, 1])).toThrow(/twice/)
})
