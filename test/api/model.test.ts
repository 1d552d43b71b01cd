// Loading, scoring, generating and saving through the public Model.
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { StopText } from '../../lib/engine/stop-text.js'
import { type GenerateEvent, Model, s2ft, Trainer } from '../../lib/index.js'
import { temporaryDirectory } from '../support/directories.js'
import { goldenRoot } from '../support/golden.js'
import { rejection } from '../support/rejection.js'
import { readSafetensors } from '../support/safetensors.js'

const directory = join(goldenRoot, 'llama-gqa')
const load = (path = directory) => Model.load(path, { device: 'cpu', dtype: 'f32' })

let model: Model
beforeAll(async () => {
  model = await load()
})
afterAll(() => model.dispose())

const prompt = [5, 66, 10, 0, 43]
const tensorsOf = (folder: string) =>
  new Map(
    readdirSync(folder)
      .filter((name) => /^model.*\.safetensors$/.test(name))
      .flatMap((name) => [...readSafetensors(join(folder, name))]),
  )

describe('scores', () => {
  test('log-probabilities are those of the logits, and the loss is their mean', async () => {
    const tokens = [5, 66, 10, 0, 43, 20, 61]
    const { vocabSize } = model.config.native
    const logits = await model.logits(tokens)
    const logProbs = await model.logProbs(tokens)
    expect(logProbs).toHaveLength(tokens.length - 1)
    for (const [i, logProb] of logProbs.entries()) {
      const row = logits.subarray(i * vocabSize, (i + 1) * vocabSize)
      const most = Math.max(...row)
      const sum = row.reduce((total, value) => total + Math.exp(value - most), 0)
      expect(logProb).toBeCloseTo(row[tokens[i + 1]!]! - most - Math.log(sum), 4)
    }
    const { loss, tokens: count } = await model.loss([{ tokens }])
    expect(count).toBe(6)
    expect(loss).toBeCloseTo(-logProbs.reduce((a, b) => a + b, 0) / 6, 5)
  })

  test('labels other than the tokens are scored as labels', async () => {
    const labels = [-100, 7, -100, 9, -100]
    const [scores] = await model.scoreBatch([{ tokens: prompt, labels }])
    const { vocabSize } = model.config.native
    const logits = await model.logits(prompt)
    const row = logits.subarray(0, vocabSize)
    const sum = row.reduce((total, value) => total + Math.exp(value), 0)
    expect(scores![0]).toBeCloseTo(row[7]! - Math.log(sum), 4)
    expect(scores![1]).toBe(0)
    expect(scores![2]).not.toBe(0)
  })
})

describe('generation', () => {
  const endless = { maxNewTokens: 12, repetitionPenalty: 1.3 }

  test('greedy takes the largest logit each time', async () => {
    const { tokens, finishReason } = await model.generateText(prompt, { maxNewTokens: 6 })
    const sequence = [...prompt]
    for (const token of tokens) {
      const logits = await model.logits(sequence)
      const row = logits.subarray(-model.config.native.vocabSize)
      expect(token).toBe(row.indexOf(Math.max(...row)))
      sequence.push(token)
    }
    expect(['length', 'stop']).toContain(finishReason)
  })

  test('a seed decides the sampled tokens', async () => {
    const sample = async (seed: number) =>
      (await model.generateText(prompt, { ...endless, temperature: 1.5, seed })).tokens
    expect(await sample(1)).toEqual(await sample(1))
    expect(await sample(1)).not.toEqual(await sample(2))
  })

  test('many prompts in few slots give what each gives alone', async () => {
    const prompts = [[5, 6], prompt, [1, 2, 3, 4, 5, 6, 7, 8, 9], [44], [60, 61, 62]]
    const finished: number[] = []
    const results = await model.generateBatch(prompts, {
      maxNewTokens: 7,
      slots: 2,
      onResult: (index) => finished.push(index),
    })
    expect(finished.sort()).toEqual([0, 1, 2, 3, 4])
    for (const [i, one] of prompts.entries()) {
      const alone = await model.generateText(one, { maxNewTokens: 7 })
      expect(results[i]!.tokens, `prompt ${i}`).toEqual(alone.tokens)
    }
  })

  test('an end token stops, streams last, and is not in the result', async () => {
    const free = await model.generateText(prompt, { maxNewTokens: 5 })
    const end = free.tokens[2]!
    const first = free.tokens.indexOf(end)
    const events: GenerateEvent[] = []
    for await (const event of model.generate(prompt, { maxNewTokens: 5, stopTokenIds: [end] })) {
      events.push(event)
    }
    expect(events.map(({ token }) => token)).toEqual([...free.tokens.slice(0, first + 1)])
    const stopped = await model.generateText(prompt, { maxNewTokens: 5, stopTokenIds: [end] })
    expect(stopped).toMatchObject({ finishReason: 'stop', tokens: free.tokens.slice(0, first) })
  })

  test('an abort ends it with what there is', async () => {
    const abort = new AbortController()
    const events = model.generate(prompt, { ...endless, signal: abort.signal })
    await events.next()
    abort.abort()
    const last = await events.next()
    expect(last).toMatchObject({ done: true, value: { finishReason: 'abort' } })
  })

  test.each<[string, object]>([
    ['topP', { topP: 0 }],
    ['temperature', { temperature: -1 }],
    ['"max_tokens"', { max_tokens: 3 }],
  ])('option %s', async (name, options) => {
    const error = await rejection(() => model.generateText(prompt, options))
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toContain(name)
  })
})

test('stop texts across pieces', () => {
  const stop = new StopText(['\n\nQ:', '###'])
  expect(stop.push('one #')).toEqual({ text: 'one ', stopped: false })
  expect(stop.push('# two\n')).toEqual({ text: '## two', stopped: false })
  expect(stop.push('\nQ')).toEqual({ text: '', stopped: false })
  expect(stop.push('A\n\n')).toEqual({ text: '\n\nQA', stopped: false })
  expect(stop.push('Q: three')).toEqual({ text: '', stopped: true })
})

describe('saving', () => {
  test('a merged directory has the base bytes everywhere but in the slices', async () => {
    const own = await load()
    const method = s2ft({ select: { down: [3, 1] } })
    const trainer = new Trainer(own, { method, learningRate: 0.05 })
    for (let i = 0; i < 2; i++) await trainer.step([{ tokens: [1, 2, 3, 4, 5, 6] }])
    const adapter = await trainer.adapter()
    await trainer.dispose()
    await own.fuse(adapter)
    const target = join(temporaryDirectory(), 'merged')
    await own.save(target)
    await own.dispose()
    expect(readFileSync(join(target, 'config.json'))).toEqual(
      readFileSync(join(directory, 'config.json')),
    )
    const base = tensorsOf(directory)
    const merged = tensorsOf(target)
    expect([...merged.keys()].sort()).toEqual([...base.keys()].sort())
    let changed = 0
    for (const [name, { shape, bytes }] of base) {
      const other = merged.get(name)!.bytes
      if (!name.endsWith('mlp.down_proj.weight')) {
        expect(Buffer.compare(bytes, other), name).toBe(0)
        continue
      }
      const columns = shape[1]!
      const words = new Uint32Array(bytes.buffer)
      const others = new Uint32Array(other.buffer)
      for (let at = 0; at < words.length; at++) {
        const selected = [3, 1].includes(at % columns)
        const same = words[at] === others[at]
        if (!selected) expect(same, `${name} at ${at}`).toBe(true)
        else if (!same) changed++
      }
    }
    expect(changed).toBeGreaterThan(0)
  })

  test('shards with an index load again to the same logits', async () => {
    const target = temporaryDirectory()
    await model.save(target, { maxShardSize: '8KB' })
    const index = JSON.parse(readFileSync(join(target, 'model.safetensors.index.json'), 'utf8'))
    expect(new Set(Object.values(index.weight_map)).size).toBeGreaterThan(2)
    const again = await load(target)
    expect(await again.logits(prompt)).toEqual(await model.logits(prompt))
    await again.dispose()
  })

  test('another element type is written and named in config.json', async () => {
    const target = temporaryDirectory()
    await model.save(target, { dtype: 'bf16' })
    expect(JSON.parse(readFileSync(join(target, 'config.json'), 'utf8')).dtype).toBe('bfloat16')
    for (const { dtype } of tensorsOf(target).values()) expect(dtype).toBe('BF16')
  })

  test('files in the way, the base itself, and a bad size', async () => {
    const target = temporaryDirectory()
    writeFileSync(join(target, 'notes.txt'), 'mine')
    expect((await rejection(() => model.save(target))).message).toContain('overwrite')
    expect((await rejection(() => model.save(directory))).code).toBe('INVALID_ARGUMENT')
    const error = await rejection(() => model.save(`${target}-2`, { maxShardSize: '5XB' }))
    expect(error.message).toContain('"5XB"')
    await model.save(target, { overwrite: true })
    expect(readdirSync(target)).toContain('notes.txt')
  })
})

describe('directories that are refused', () => {
  const refusal = (fill: (folder: string) => void) => {
    const folder = temporaryDirectory()
    cpSync(join(directory, 'config.json'), join(folder, 'config.json'))
    fill(folder)
    return rejection(() => Model.load(folder))
  }
  const index = (map: object) => (folder: string) =>
    writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map: map }))

  test.each<[string, (folder: string) => void, string, RegExp]>([
    [
      'pickled',
      (f) => writeFileSync(join(f, 'pytorch_model.bin'), ''),
      'UNSUPPORTED_MODEL',
      /pick/,
    ],
    ['empty', () => {}, 'IO', /model\.safetensors/],
    ['a shard outside', index({ a: '../x.safetensors' }), 'CORRUPT_FILE', /\.\.\/x/],
    ['an absolute shard', index({ a: '/etc/x.safetensors' }), 'CORRUPT_FILE', /etc/],
    ['a missing shard', index({ a: 'x.safetensors' }), 'IO', /x\.safetensors/],
    ['an index that is none', index([]), 'CORRUPT_FILE', /weight_map/],
    [
      'a header beyond the file',
      (f) => writeFileSync(join(f, 'model.safetensors'), Buffer.alloc(16, 0xff)),
      'CORRUPT_FILE',
      /model\.safetensors/,
    ],
    ['a folder as weights', (f) => mkdirSync(join(f, 'model.safetensors')), 'IO', /expected/],
  ])('%s', async (_, fill, code, message) => {
    const error = await refusal(fill)
    expect(error.code).toBe(code)
    expect(error.message).toMatch(message)
  })

  test('no directory', async () => {
    expect((await rejection(() => Model.load('/nowhere/at/all'))).code).toBe('IO')
  })
})

test('what is no adapter is not fused', async () => {
  for (const wrong of [{}, undefined, 'out']) {
    await expect(model.fuse(wrong as never)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  }
})

test('a disposed model says so', async () => {
  const own = await load()
  expect(await own.fingerprint()).toBe(await model.fingerprint())
  await own.dispose()
  await own.dispose()
  for (const call of [() => own.logits([1]), () => own.generateText([1]), () => own.save('x')]) {
    const error = await rejection(call)
    expect(error.code).toBe('DISPOSED')
    expect(error.message).toContain(basename(directory))
  }
})
