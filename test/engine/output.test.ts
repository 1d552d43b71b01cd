// What an engine answers: the same as the model alone, whatever runs beside it.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Adapter, Engine, lora, loreft, type Model, s2ft } from '../../lib/index.js'
import { rejection } from '../support/rejection.js'
import { finish, golden, load, small, tiny, trained, trainedKinds } from './support.js'

const prompts = ['Tom has 3 apples', 'The', 'Anna went to the red house and then']

describe.each([
  ['models/tiny', tiny, 'f32'],
  ['models/tiny', tiny, 'bf16'],
  ['llama-gqa', golden('llama-gqa'), 'f32'],
  ['llama-bf16', golden('llama-bf16'), 'bf16'],
  ['qwen2-sliding', golden('qwen2-sliding'), 'f32'],
  ['qwen3', golden('qwen3'), 'f32'],
] as const)('%s', (_, directory, dtype) => {
  let model: Model
  beforeAll(async () => {
    model = await load(directory, dtype)
  })
  afterAll(() => model.dispose())

  const tokens = [
    [5, 6, 10, 0, 3, 20, 6],
    [1],
    Array.from({ length: 45 }, (__, i) => (7 * i + 3) % 29),
  ]
  const options = { maxNewTokens: 12, stopTokenIds: [] }

  test('greedy answers are those of model.generate, in one batch', async () => {
    await using engine = await Engine.create(model, small)
    const found = await Promise.all(tokens.map((prompt) => finish(engine, { prompt, ...options })))
    for (const [i, { result, events }] of found.entries()) {
      const expected = await model.generateText(tokens[i]!, options)
      expect(result).toMatchObject(expected)
      expect(result.promptTokens).toBe(tokens[i]!.length)
      expect(events.map(({ text }) => text).join('')).toBe(result.text)
    }
  })

  test('and with an adapter fused into the model', async () => {
    const adapter = await trained(model, s2ft({ ratios: { down: 0.3, o: 0.5 } }))
    await model.fuse(adapter)
    try {
      await using engine = await Engine.create(model, small)
      const expected = await model.generateText(tokens[0]!, options)
      expect((await finish(engine, { prompt: tokens[0]!, ...options })).result).toMatchObject(
        expected,
      )
    } finally {
      await model.unfuse(adapter)
    }
  })
})

describe('adapters', () => {
  let model: Model
  let adapters: Record<string, Adapter>
  beforeAll(async () => {
    model = await load(golden('llama-gqa'))
    adapters = await trainedKinds(model)
  })
  afterAll(() => model.dispose())

  const prompt = [5, 6, 10, 0, 3, 20, 6]
  const request = { prompt, maxNewTokens: 16, topLogprobs: 5 }

  test('beside the base act as fused ones', async () => {
    const probabilities: Record<string, number[]> = {}
    {
      await using engine = await Engine.create(model, small)
      for (const [name, adapter] of Object.entries(adapters)) {
        await engine.addAdapter(name, adapter)
        const { events } = await finish(engine, { ...request, adapter: name })
        probabilities[name] = events.map(({ logProb }) => logProb)
      }
      const { events } = await finish(engine, request)
      probabilities.base = events.map(({ logProb }) => logProb)
    }
    for (const [name, adapter] of Object.entries(adapters)) {
      await model.fuse(adapter)
      await using engine = await Engine.create(model, small)
      const { events } = await finish(engine, request)
      await engine.dispose()
      await model.unfuse(adapter)
      // Sums in another order, f32.
      for (const [i, { logProb }] of events.entries()) {
        expect(probabilities[name]![i]).toBeCloseTo(logProb, 3)
      }
      expect(Math.abs(probabilities[name]![0]! - probabilities.base![0]!)).toBeGreaterThan(0.01)
    }
  })

  test('of all kinds mix in a batch; each answers as it does alone', async () => {
    await using engine = await Engine.create(model, small)
    for (const [name, adapter] of Object.entries(adapters)) await engine.addAdapter(name, adapter)
    const names = [undefined, ...Object.keys(adapters)]
    const requests = Array.from({ length: 12 }, (_, i) => ({
      ...request,
      prompt: prompt.slice(0, 2 + (i % 5)),
      ...(names[i % 4] && { adapter: names[i % 4]! }),
      temperature: i % 3 ? 0.8 : 0,
      seed: i,
    }))
    const together = await Promise.all(requests.map((one) => finish(engine, one)))
    await using alone = await Engine.create(model, { ...small, prefixCache: false })
    for (const [name, adapter] of Object.entries(adapters)) await alone.addAdapter(name, adapter)
    for (const [i, one] of requests.entries()) {
      const { events, result } = await finish(alone, one)
      expect(together[i]!.events).toEqual(events)
      expect(together[i]!.result.tokens).toEqual(result.tokens)
    }
  })

  test('that no batch can hold are refused, with the way that remains', async () => {
    const edits = await trained(model, loreft({ r: 2 }))
    await using engine = await Engine.create(model, small)
    const error = await rejection(() => engine.addAdapter('edits', edits))
    expect(error.code).toBe('UNSUPPORTED')
    expect(error.message).toContain('fuse')
    expect(engine.adapters()).toEqual([])
  })

  test('of another base are refused', async () => {
    await using other = await load(golden('llama-tied'))
    const foreign = await trained(other, lora({ r: 2 }))
    await using engine = await Engine.create(model, small)
    const error = await rejection(() => engine.addAdapter('foreign', foreign))
    expect(['ADAPTER_MISMATCH', 'SHAPE_MISMATCH']).toContain(error.code)
  })
})

describe('sampling', () => {
  let model: Model
  beforeAll(async () => {
    model = await load(tiny)
  })
  afterAll(() => model.dispose())

  test('the same seed gives the same text whatever runs beside', async () => {
    await using engine = await Engine.create(model, small)
    const one = { prompt: prompts[0]!, temperature: 1, seed: 7, maxNewTokens: 20 }
    const alone = await finish(engine, one)
    const others = Array.from({ length: 20 }, (_, i) => ({
      ...one,
      prompt: prompts[i % 3]!,
      seed: 100 + i,
    }))
    const [beside] = await Promise.all([one, ...others].map((r) => finish(engine, r)))
    expect(beside!.events).toEqual(alone.events)
    const { prompt: _, ...options } = one
    expect(alone.result.text).toBe((await model.generateText(one.prompt, options)).text)
    const another = await finish(engine, { ...one, seed: 8 })
    expect(another.result.text).not.toBe(alone.result.text)
  })

  test('log-probabilities are the model’s own, also of the prompt', async () => {
    await using engine = await Engine.create(model, small)
    const tokenizer = await model.tokenizer()
    const prompt = tokenizer.encode(prompts[2]!)
    const { events, result } = await finish(engine, {
      ...{ prompt, maxNewTokens: 4, topLogprobs: 3, promptLogprobs: true },
      ...{ temperature: 1.3, repetitionPenalty: 1.5, logitBias: { 9: 5 }, seed: 3 },
    })
    const all = [...prompt, ...events.map(({ token }) => token)]
    const expected = await model.logProbs(all)
    expect(result.promptLogProbs).toHaveLength(prompt.length)
    expect(result.promptLogProbs![0]).toBeNaN()
    for (let i = 1; i < prompt.length; i++) {
      expect(result.promptLogProbs![i]).toBeCloseTo(expected[i - 1]!, 4)
    }
    for (const [i, { logProb, top }] of events.entries()) {
      expect(logProb).toBeCloseTo(expected[prompt.length - 1 + i]!, 4)
      expect(top).toHaveLength(3)
      expect(top[0]!.logProb).toBeGreaterThanOrEqual(top[1]!.logProb)
      expect(top[0]!.logProb).toBeGreaterThanOrEqual(logProb)
    }
  })

  test('stop texts and biases end and steer it', async () => {
    await using engine = await Engine.create(model, small)
    const free = await finish(engine, { prompt: prompts[0]!, maxNewTokens: 20 })
    const stop = free.result.text.slice(4, 7)
    const stopped = await finish(engine, { prompt: prompts[0]!, maxNewTokens: 20, stop })
    expect(stopped.result.finishReason).toBe('stop')
    expect(stopped.result.text).toBe(free.result.text.slice(0, free.result.text.indexOf(stop)))
    const steered = await finish(engine, {
      ...{ prompt: prompts[0]!, maxNewTokens: 3, logitBias: { 11: 1000 } },
    })
    expect([...steered.result.tokens]).toEqual([11, 11, 11])
  })
})
