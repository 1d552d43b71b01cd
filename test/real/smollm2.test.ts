// A short real run: SmolLM2-135M-Instruct learns from GSM8K in bf16, on the CPU.
// Looks for the model in S2FT_SMOLLM2 or ~/.cache/s2ft, for the data in ../shared/data.
import { existsSync, readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  Adapter,
  encodeDataset,
  loadDataset,
  Model,
  type SampleInput,
  s2ft,
  Tokenizer,
  Trainer,
} from '../../lib/index.js'
import type { NativeMemoryPlan } from '../../lib/native/binding.js'
import { native } from '../../lib/native/load.js'
import { temporaryDirectory } from '../support/directories.js'
import { relativeError } from '../support/golden.js'
import { type RawTensor, readSafetensors, valuesOf } from '../support/safetensors.js'

const name = 'SmolLM2-135M-Instruct'
const directory = process.env.S2FT_SMOLLM2 ?? join(homedir(), '.cache', 's2ft', name)
const math = fileURLToPath(new URL('../../../shared/data/math', import.meta.url))
const missing = [join(directory, 'model.safetensors'), math].filter((path) => !existsSync(path))
if (missing.length > 0) console.warn(`${name} on GSM8K: skipped, missing ${missing.join(' and ')}`)

const STEPS = 8
const question = [
  { role: 'user', content: 'Tom has 3 bags of 4 apples. He eats 2. How many are left?' },
] as const

/** Bytes that the process holds in memory now. */
function resident(): number {
  if (!existsSync('/proc/self/status')) return 0
  const found = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))
  return Number(found?.[1]) * 1024
}

const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(0)} MB`
const bits = (values: Float32Array) =>
  Buffer.from(values.buffer, values.byteOffset, values.byteLength)

describe.skipIf(missing.length > 0)(
  `${name} on GSM8K${missing.length > 0 ? ' (missing)' : ''}`,
  () => {
    let model: Model
    let adapter: Adapter
    let merged: string
    let prompt: Int32Array
    let baseLogits: Float32Array
    let held: SampleInput[]
    let plan: NativeMemoryPlan
    /** Growth of the process: after loading, after the trainer was made, and at the peak. */
    const grown = { loaded: 0, planned: 0, peak: 0 }
    let peakAfterTraining = 0
    const loss = { base: 0, tuned: 0, tunedOnFour: 0, steps: [] as number[] }

    beforeAll(async () => {
      const tokenizer = await Tokenizer.load(directory)
      const read = async (file: string, limit: number) =>
        (await encodeDataset(await loadDataset(join(math, file), { limit }), tokenizer)).samples
      const train = await read('gsm8k-train.jsonl', 4 * STEPS)
      held = await read('gsm8k-test.json', 32)
      prompt = Int32Array.from(held[0]!.tokens)
      native().resetPeakMemory()
      const before = resident()
      model = await Model.load(directory, { device: 'cpu', dtype: 'bf16' })
      grown.loaded = resident() - before
      const trainer = new Trainer(model, {
        method: s2ft({ ratios: { v: 0.3, o: 0.03, up: 0.02, down: 0.03 }, seed: 0 }),
        learningRate: 3e-4,
        warmupSteps: 1,
        maxSteps: STEPS,
        batchSize: 4,
      })
      for await (const event of trainer.fit(train)) {
        if (event.type === 'plan') {
          plan = event
          grown.planned = resident() - before
        }
        if (event.type === 'step') loss.steps.push(event.loss)
      }
      peakAfterTraining = native().peakMemory()
      grown.peak = peakAfterTraining - before
      loss.tuned = (await trainer.evaluate(held)).loss
      loss.tunedOnFour = (await trainer.evaluate(held.slice(0, 4))).loss
      const saved = temporaryDirectory()
      await (await trainer.adapter()).save(saved)
      adapter = await Adapter.load(saved)
      await trainer.dispose()
      baseLogits = await model.logits(prompt)
      merged = temporaryDirectory()
    }, 300_000)
    afterAll(() => model?.dispose())

    test('the loss on questions it has not seen falls', async () => {
      let [total, tokens] = [0, 0]
      for (let i = 0; i < held.length; i += 4) {
        const part = await model.loss(held.slice(i, i + 4))
        total += part.loss * part.tokens
        tokens += part.tokens
      }
      loss.base = total / tokens
      console.log(
        `loss ${loss.base.toFixed(4)} -> ${loss.tuned.toFixed(4)}; ` +
          `steps ${loss.steps.map((value) => value.toFixed(3)).join(' ')}`,
      )
      expect(loss.steps).toHaveLength(STEPS)
      expect(loss.tuned).toBeLessThan(loss.base - 0.01)
    })

    test.skipIf(!existsSync('/proc/self/status'))(
      'the memory plan is within 5 % of the peak',
      () => {
        const { weights, trainable, optimizer, activations, workspace, total } = plan
        const made = grown.planned - grown.loaded
        const rest = grown.peak - grown.planned
        console.log(
          `planned and taken: weights ${megabytes(weights)}, ${megabytes(grown.loaded)}; ` +
            `trainable and optimizer ${megabytes(trainable + optimizer)}, ${megabytes(made)}; ` +
            `activations and workspace ${megabytes(activations + workspace)}, ${megabytes(rest)}; ` +
            `total ${megabytes(total)}, ${megabytes(peakAfterTraining)}`,
        )
        expect(Math.abs(total / peakAfterTraining - 1)).toBeLessThan(0.05)
      },
    )

    test('fusing changes the logits as training did; unfusing gives the same bits back', async () => {
      await model.fuse(adapter)
      const fused = await model.logits(prompt)
      expect(relativeError(fused, baseLogits)).toBeGreaterThan(1e-3)
      // The trainer sums the channels in another order, and its weights are rounded alike.
      expect((await model.loss(held.slice(0, 4))).loss).toBeCloseTo(loss.tunedOnFour, 2)
      await model.save(merged)
      await model.unfuse(adapter)
      expect(bits(await model.logits(prompt)).equals(bits(baseLogits))).toBe(true)
      await using again = await Model.load(merged, { device: 'cpu', dtype: 'bf16' })
      expect(bits(await again.logits(prompt)).equals(bits(fused))).toBe(true)
    })

    test('merged weights are those of the base but where the adapter says', () => {
      const base = readSafetensors(join(directory, 'model.safetensors'))
      const after = readSafetensors(join(merged, 'model.safetensors'))
      expect([...after.keys()].sort()).toEqual([...base.keys()].sort())
      if (adapter.info.type !== 's2ft') throw new Error('expected an S²FT adapter')
      const slices = new Map(adapter.info.slices.map((slice) => [`${slice.module}.weight`, slice]))
      expect(slices.size).toBe(4 * 30)
      for (const [tensor, before] of base) {
        const now = after.get(tensor)!
        expect([now.dtype, now.shape], tensor).toEqual(['BF16', before.shape])
        const slice = slices.get(tensor)
        if (!slice) {
          expect(Buffer.compare(now.bytes, before.bytes), tensor).toBe(0)
          continue
        }
        const index = adapter.tensors.get(`${slice.module}.s2ft_index`)!.data as Int32Array
        const delta = adapter.tensors.get(`${slice.module}.s2ft_delta`)!.data as Float32Array
        const found = compare(before, now, slice.axis, index, delta)
        expect(found.outside, `${tensor}: changed outside the slice`).toBe(0)
        expect(found.changed, `${tensor}: changed in the slice`).toBeGreaterThan(0)
        expect(found.farthest, `${tensor}: base + delta, rounded`).toBeLessThanOrEqual(2 ** -8)
      }
    })

    test('generates with the adapter, the same text each time', async () => {
      const ask = () => model.generateText([...question], { maxNewTokens: 24 })
      const before = await ask()
      await model.fuse(adapter)
      const first = await ask()
      const second = await ask()
      await model.unfuse(adapter)
      console.log(`base: ${JSON.stringify(before.text)}; tuned: ${JSON.stringify(first.text)}`)
      expect(first.text.trim()).not.toBe('')
      expect([...second.tokens]).toEqual([...first.tokens])
      expect([...first.tokens]).not.toEqual([...before.tokens])
      expect([...(await ask()).tokens]).toEqual([...before.tokens])
    })
  },
)

/** Elements that differ outside and inside a slice, and the largest relative distance inside. */
function compare(
  before: RawTensor,
  now: RawTensor,
  axis: 'rows' | 'cols',
  index: Int32Array,
  delta: Float32Array,
) {
  const [out, inputs] = before.shape as [number, number]
  const place = new Int32Array(axis === 'rows' ? out : inputs).fill(-1)
  for (const [i, unit] of index.entries()) place[unit] = i
  const [old, fresh] = [valuesOf(before), valuesOf(now)]
  const result = { outside: 0, changed: 0, farthest: 0 }
  for (let row = 0, at = 0; row < out; row++) {
    for (let col = 0; col < inputs; col++, at++) {
      const unit = place[axis === 'rows' ? row : col]!
      if (unit < 0) {
        if (!Object.is(old[at], fresh[at])) result.outside++
        continue
      }
      const change = delta[axis === 'rows' ? unit * inputs + col : row * index.length + unit]!
      const expected = old[at]! + change
      if (old[at] !== fresh[at]) result.changed++
      const distance = Math.abs(fresh[at]! - expected) / Math.max(Math.abs(expected), 1e-30)
      result.farthest = Math.max(result.farthest, distance)
    }
  }
  return result
}
