// What an engine holds, and gives back: pages, adapters, the queue, the model.
import { rmSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Adapter, Engine, lora, type Model, s2ft, Trainer } from '../../lib/index.js'
import { rejection } from '../support/rejection.js'
import { finish, golden, idle, load, savedAdapter, small, trained, until } from './support.js'

let model: Model
let adapter: Adapter
beforeAll(async () => {
  model = await load(golden('llama-gqa'))
  adapter = await trained(model, s2ft({ ratios: { down: 0.3 } }))
})
afterAll(() => model.dispose())

// No token ends these; the model's positions do.
const endless = { prompt: [1, 2, 3], maxNewTokens: 60, logitBias: { 7: 1000 } }

describe('requests end early', () => {
  test('by return(), which frees their pages', async () => {
    await using engine = await Engine.create(model, small)
    const stream = engine.generate(endless)
    await stream.next()
    expect(engine.stats().pages.used).toBeGreaterThan(0)
    await stream.return(undefined as never)
    expect(idle(engine)).toBe(true)
    expect(engine.stats().totals.aborted).toBe(1)
    expect(await stream.next()).toEqual({ done: true, value: undefined })
  })

  test('by leaving a loop', async () => {
    await using engine = await Engine.create(model, small)
    for await (const { token } of engine.generate(endless)) {
      expect(token).toBe(7)
      break
    }
    expect(idle(engine)).toBe(true)
  })

  test('by a signal, with what there is', async () => {
    await using engine = await Engine.create(model, small)
    const abort = new AbortController()
    const stream = engine.generate({ ...endless, signal: abort.signal })
    await stream.next()
    abort.abort()
    let last = await stream.next()
    while (!last.done) last = await stream.next()
    expect(last.value.finishReason).toBe('abort')
    expect(last.value.tokens.length).toBeGreaterThan(0)
    expect(idle(engine)).toBe(true)
    const late = await finish(engine, { ...endless, signal: abort.signal })
    expect(late.result).toMatchObject({ finishReason: 'abort', text: '' })
  })

  test('while they wait in the queue', async () => {
    await using engine = await Engine.create(model, { ...small, maxSequences: 1 })
    const first = engine.generate(endless)
    const second = engine.generate(endless)
    // Together: the first one's few tokens would be there before the second one had begun.
    const begun = first.next()
    const pending = second.next()
    // Without a turn of the event loop, in which the first one might come to its end.
    for (let i = 0; i < 100 && engine.stats().totals.requests < 2; i++) await Promise.resolve()
    expect(engine.stats().totals.requests).toBe(2)
    await second.return(undefined as never)
    await begun
    expect(await pending).toEqual({ done: true, value: undefined })
    expect(engine.stats().waiting).toBe(0)
    await first.return(undefined as never)
    expect(idle(engine)).toBe(true)
  })

  test('never begun, hold nothing', async () => {
    await using engine = await Engine.create(model, small)
    const stream = engine.generate(endless)
    await stream.return(undefined as never)
    expect(await stream.next()).toEqual({ done: true, value: undefined })
    expect(engine.stats().totals.requests).toBe(0)
  })
})

describe('limits', () => {
  test('a full queue refuses one more', async () => {
    await using engine = await Engine.create(model, { ...small, maxSequences: 2, maxQueue: 1 })
    const streams = [0, 1, 2].map(() => engine.generate(endless))
    const first = streams.map((stream) => stream.next())
    // In the same turn: the others' few tokens would be there in no time.
    const error = await rejection(() => engine.generate(endless).next())
    expect(error.code).toBe('OVERLOADED')
    const { running, waiting } = error.details as { running: number; waiting: number }
    expect(running + waiting).toBe(3)
    await Promise.all(first.slice(0, 2))
    await Promise.all(streams.map((stream) => stream.return(undefined as never)))
    expect((await finish(engine, { ...endless, maxNewTokens: 2 })).result.tokens).toHaveLength(2)
  })

  test.each([
    [{ prompt: [] }, 'prompt'],
    [{ prompt: [1e6] }, 'prompt'],
    [{ prompt: [1], maxNewTokens: 0 }, 'maxNewTokens'],
    [{ prompt: [1], maxNewTokens: 1e6 }, 'maxNewTokens'],
    [{ prompt: [1], topLogprobs: 21 }, 'topLogprobs'],
    [{ prompt: [1], temperature: -1 }, 'temperature'],
    [{ prompt: [1], logitBias: { 100000: 1 } }, 'logitBias'],
    [{ prompt: [1], frequencyPenalty: 3 }, 'frequencyPenalty'],
    [{ prompt: [1], nonsense: 1 }, 'nonsense'],
    [{}, 'prompt'],
  ])('a bad request is refused: %o', async (request, field) => {
    await using engine = await Engine.create(model, small)
    const error = await rejection(() => engine.generate(request as never).next())
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toContain(field)
    expect(idle(engine)).toBe(true)
  })

  test.each([
    [{ maxSequences: 0 }, 'maxSequences'],
    [{ pageTokens: 24 }, 'pageTokens'],
    [{ cacheMemory: 10 }, 'cacheMemory'],
    [{ cacheMemory: 'much' }, 'cacheMemory'],
    [{ maxSequences: 8, maxBatchTokens: 7 }, 'maxBatchTokens'],
  ])('a bad option is refused: %o', async (options, field) => {
    const error = await rejection(() => Engine.create(model, options))
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toContain(field)
  })

  test('sequences that outgrow the cache give way to earlier ones, with the same result', async () => {
    await using roomy = await Engine.create(model, small)
    const { result } = await finish(roomy, endless)
    // Each takes four pages at its end.
    const { native } = model.config
    const page = 16 * 2 * native.layers * native.kvHeads * native.headDim * 4
    await using engine = await Engine.create(model, { cacheMemory: 6 * page })
    const mixed = { ...endless, logitBias: {}, temperature: 1, stopTokenIds: [] }
    const found = await Promise.all(
      [0, 1, 2].map((seed) => finish(engine, { ...(seed ? mixed : endless), seed })),
    )
    expect(engine.stats().totals.preempted).toBeGreaterThan(0)
    expect(found[0]!.result.tokens).toEqual(result.tokens)
    for (const seed of [1, 2]) {
      const alone = await finish(roomy, { ...mixed, seed })
      expect(found[seed]!.events).toEqual(alone.events)
    }
    expect(idle(engine)).toBe(true)
  })
})

describe('the prefix cache', () => {
  const prompt = Array.from({ length: 40 }, (_, i) => (5 * i) % 23)

  test('is hit by prompts that begin alike, with one adapter', async () => {
    await using engine = await Engine.create(model, small)
    await engine.addAdapter('a', adapter)
    const request = { prompt, maxNewTokens: 3 }
    const first = await finish(engine, request)
    expect(first.result.cachedTokens).toBe(0)
    const again = await finish(engine, { ...request, prompt: [...prompt, 1] })
    expect(again.result.cachedTokens).toBe(32)
    const same = await finish(engine, request)
    expect(same.result.cachedTokens).toBe(32)
    expect(same.events).toEqual(first.events)
    const other = await finish(engine, { ...request, adapter: 'a' })
    expect(other.result.cachedTokens).toBe(0)
    expect((await finish(engine, { ...request, adapter: 'a' })).result.cachedTokens).toBe(32)
    expect(engine.stats().pages.cached).toBeGreaterThan(0)
    expect(engine.stats().totals.cachedTokens).toBe(96)
  })

  test('can be left out', async () => {
    await using engine = await Engine.create(model, { ...small, prefixCache: false })
    await finish(engine, { prompt, maxNewTokens: 3 })
    const { result } = await finish(engine, { prompt, maxNewTokens: 3 })
    expect(result.cachedTokens).toBe(0)
    expect(engine.stats().pages).toMatchObject({ used: 0, cached: 0 })
  })
})

describe('adapters in memory', () => {
  test('give way to others, least recently used first, and come back', async () => {
    await using probe = await Engine.create(model, small)
    await probe.addAdapter('x', adapter)
    const { bytes } = probe.adapters()[0]!
    await probe.dispose()
    const directory = await savedAdapter(adapter)
    await using engine = await Engine.create(model, { ...small, adapterMemory: 2 * bytes })
    for (const name of ['a', 'b', 'c']) await engine.addAdapter(name, directory)
    const resident = () =>
      engine
        .adapters()
        .filter((one) => one.resident)
        .map(({ name }) => name)
    expect(resident()).toEqual(['b', 'c'])
    const request = { prompt: [1, 2, 3], maxNewTokens: 4 }
    const b = await finish(engine, { ...request, adapter: 'b' })
    const a = await finish(engine, { ...request, adapter: 'a' })
    expect(a.events).toEqual(b.events)
    expect(resident()).toEqual(['a', 'b'])
    // More at once than memory holds: all are served, within the budget.
    const many = Array.from({ length: 12 }, (_, i) => 'abc'[i % 3]!)
    const found = await Promise.all(
      many.map((name) => finish(engine, { ...request, adapter: name })),
    )
    for (const { events } of found) expect(events).toEqual(a.events)
    expect(engine.stats().adapters.bytes).toBeLessThanOrEqual(2 * bytes)
    expect(engine.stats().adapters.evictions).toBeGreaterThan(1)
    expect(idle(engine)).toBe(true)
  })

  test('are refused when they are too large, unknown, broken or named twice', async () => {
    await using engine = await Engine.create(model, { ...small, adapterMemory: 100 })
    const large = await rejection(() => engine.addAdapter('a', adapter))
    expect(large.code).toBe('INVALID_ARGUMENT')
    expect(large.message).toContain('adapterMemory')
    expect(engine.stats().adapters).toMatchObject({ known: 0, resident: 0, bytes: 0 })
    expect((await rejection(() => engine.addAdapter('a', '/nowhere'))).code).toBe('IO')
    expect((await rejection(() => engine.addAdapter('', adapter))).code).toBe('INVALID_ARGUMENT')
    const unknown = await rejection(() => engine.generate({ prompt: [1], adapter: 'a' }).next())
    expect(unknown.code).toBe('ADAPTER_MISMATCH')
    expect((await rejection(() => engine.removeAdapter('a'))).code).toBe('ADAPTER_MISMATCH')
    await using roomy = await Engine.create(model, small)
    await roomy.addAdapter('a', adapter)
    expect((await rejection(() => roomy.addAdapter('a', adapter))).code).toBe('INVALID_ARGUMENT')
  })

  test('whose files are gone fail the requests that need them', async () => {
    const directory = await savedAdapter(adapter)
    await using probe = await Engine.create(model, small)
    await probe.addAdapter('x', adapter)
    const { bytes } = probe.adapters()[0]!
    await probe.dispose()
    await using engine = await Engine.create(model, { ...small, adapterMemory: bytes })
    await engine.addAdapter('a', directory)
    await engine.addAdapter('b', adapter)
    rmSync(directory, { recursive: true })
    const error = await rejection(() => finish(engine, { prompt: [1], adapter: 'a' }))
    expect(error.code).toBe('IO')
    const other = await finish(engine, { ...endless, adapter: 'b', maxNewTokens: 2 })
    expect(other.result.tokens).toHaveLength(2)
    expect(idle(engine)).toBe(true)
  })

  test('that are removed serve the requests they have', async () => {
    await using engine = await Engine.create(model, small)
    await engine.addAdapter('a', adapter)
    const stream = engine.generate({ ...endless, adapter: 'a' })
    await stream.next()
    await engine.removeAdapter('a')
    expect((await rejection(() => finish(engine, { ...endless, adapter: 'a' }))).code).toBe(
      'ADAPTER_MISMATCH',
    )
    let last = await stream.next()
    while (!last.done) last = await stream.next()
    expect(last.value.tokens).toHaveLength(60)
    await until(() => engine.stats().adapters.resident === 0)
    expect(engine.stats().adapters.bytes).toBe(0)
  })
})

describe('the model', () => {
  test('may not change under an engine', async () => {
    const engine = await Engine.create(model, small)
    expect((await rejection(() => model.fuse(adapter))).code).toBe('BUSY')
    const trainer = new Trainer(model, { method: lora({ r: 2 }) })
    expect((await rejection(() => trainer.step([{ tokens: [1, 2, 3] }]))).code).toBe('BUSY')
    await engine.dispose()
    await model.fuse(adapter)
    await model.unfuse(adapter)
    await trainer.step([{ tokens: [1, 2, 3] }])
    expect((await rejection(() => Engine.create(model, small))).code).toBe('BUSY')
    await trainer.dispose()
  })

  test('disposed of, ends its engines', async () => {
    const own = await load(golden('llama-gqa'))
    const engine = await Engine.create(own, small)
    const stream = engine.generate(endless)
    await stream.next()
    await own.dispose()
    const error = await rejection(async () => {
      for (;;) if ((await stream.next()).done) return
    })
    expect(error.code).toBe('DISPOSED')
    expect((await rejection(() => engine.generate(endless).next())).code).toBe('DISPOSED')
  })
})

test('dispose() in flight ends every request and waits', async () => {
  const engine = await Engine.create(model, { ...small, maxSequences: 2 })
  const all = [0, 1, 2, 3].map(() => rejection(() => finish(engine, endless)))
  await until(() => engine.stats().totals.passes > 2)
  await Promise.all([engine.dispose(), engine.dispose()])
  for (const error of await Promise.all(all)) expect(error.code).toBe('DISPOSED')
  expect((await rejection(() => engine.addAdapter('a', adapter))).code).toBe('DISPOSED')
})

test('after hundreds of requests, ended in all ways, every page is free', async () => {
  await using engine = await Engine.create(model, { ...small, maxSequences: 6, maxQueue: 400 })
  await engine.addAdapter('a', adapter)
  const runs = Array.from({ length: 300 }, async (_, i) => {
    const request = {
      prompt: Array.from({ length: 1 + ((i * 7) % 40) }, (__, j) => (i + j) % 29),
      maxNewTokens: 1 + (i % 9),
      ...(i % 2 && { adapter: 'a' }),
    }
    if (i % 3 === 0) return finish(engine, request)
    const abort = new AbortController()
    const stream = engine.generate({ ...request, signal: abort.signal })
    await stream.next()
    if (i % 3 === 1) abort.abort()
    return stream.return(undefined as never)
  })
  await Promise.all(runs)
  expect(idle(engine)).toBe(true)
  const { pages, totals } = engine.stats()
  expect(pages.cached).toBeLessThanOrEqual(pages.total)
  expect(totals.requests).toBe(300)
})
