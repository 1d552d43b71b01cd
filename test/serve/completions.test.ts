// POST /v1/completions, by the official client where it has the call.
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { post, type Running, startFake } from './support.js'

const stops: (() => Promise<void>)[] = []
afterAll(async () => {
  for (const stop of stops) await stop()
})
let fake: Running
let client: OpenAI
let url: string

beforeAll(async () => {
  fake = await startFake({}, (stop) => stops.push(stop))
  url = `${fake.url}/v1/completions`
  client = new OpenAI({ baseURL: `${fake.url}/v1`, apiKey: 'none', maxRetries: 0 })
})

const greedy = { model: 'tiny', prompt: 'The tree', max_tokens: 10, temperature: 0 }

describe('answers', () => {
  test('a text goes on; 16 tokens and temperature 1 are the defaults', async () => {
    const answer = await client.completions.create({ model: 'tiny', prompt: 'The tree' })
    const request = fake.engine.requests.at(-1)!
    expect(request).toMatchObject({ maxNewTokens: 16, temperature: 1 })
    expect(request.prompt).toEqual(fake.tokenizer.encode('The tree'))
    expect(answer).toMatchObject({ object: 'text_completion', model: 'tiny' })
    expect(answer.id).toMatch(/^cmpl-/)
    expect(answer.choices[0]).toMatchObject({ index: 0, logprobs: null })
  })

  test('tokens as prompt mean the same as their text', async () => {
    const text = await client.completions.create(greedy)
    const prompt = fake.tokenizer.encode('The tree')
    const tokens = await client.completions.create({ ...greedy, prompt })
    expect(tokens.choices).toEqual(text.choices)
  })

  test('many prompts times n: choices in order, prompts counted once', async () => {
    const prompt = ['The tree', 'A house and a']
    const both = await client.completions.create({ ...greedy, prompt, n: 2 })
    expect(both.choices.map(({ index }) => index)).toEqual([0, 1, 2, 3])
    const [a, , c] = both.choices
    const one = await client.completions.create({ ...greedy, prompt: prompt[1]! })
    expect(c!.text).toBe(one.choices[0]!.text)
    expect(both.choices[1]!.text).toBe(a!.text)
    const lengths = prompt.map((text) => fake.tokenizer.encode(text).length)
    expect(both.usage!.prompt_tokens).toBe(lengths[0]! + lengths[1]!)
    expect(both.usage!.completion_tokens).toBeLessThanOrEqual(40)
    const ids = prompt.map((text) => fake.tokenizer.encode(text))
    const tokens = await client.completions.create({ ...greedy, prompt: ids, n: 2 })
    expect(tokens.choices).toEqual(both.choices)
  })

  test('a seed repeats a text and gives each choice one of its own', async () => {
    const body = { model: 'tiny', prompt: 'The', max_tokens: 12, n: 3, seed: 42 }
    const first = await client.completions.create(body)
    const again = await client.completions.create(body)
    expect(again.choices).toEqual(first.choices)
    expect(new Set(first.choices.map(({ text }) => text)).size).toBe(3)
    const second = await client.completions.create({ ...body, n: 1, seed: 43 })
    expect(second.choices[0]!.text).toBe(first.choices[1]!.text)
  })

  test('a stream says the same as the whole, with echo and log-probabilities', async () => {
    for (const more of [{}, { echo: true }, { logprobs: 2 }]) {
      const body = { ...greedy, ...more, n: 2 }
      const whole = await client.completions.create(body)
      const texts = ['', '']
      const tokens: string[][] = [[], []]
      const offsets: number[][] = [[], []]
      for await (const part of await client.completions.create({ ...body, stream: true })) {
        for (const { index, text, logprobs } of part.choices) {
          texts[index] += text
          tokens[index]!.push(...(logprobs?.tokens ?? []))
          offsets[index]!.push(...(logprobs?.text_offset ?? []))
        }
      }
      expect(texts).toEqual(whole.choices.map(({ text }) => text))
      expect(tokens).toEqual(whole.choices.map(({ logprobs }) => logprobs?.tokens ?? []))
      expect(offsets).toEqual(whole.choices.map(({ logprobs }) => logprobs?.text_offset ?? []))
    }
  })

  test('logprobs: tokens join to the text, offsets are their places', async () => {
    const { choices } = await client.completions.create({ ...greedy, logprobs: 3 })
    const { text, logprobs } = choices[0]!
    const { tokens, token_logprobs, top_logprobs, text_offset } = logprobs!
    expect(tokens!.join('')).toBe(text)
    for (const [i, token] of tokens!.entries()) {
      expect(text.slice(text_offset![i]).startsWith(token)).toBe(true)
      expect(Object.keys(top_logprobs![i]!)).toHaveLength(3)
      expect(top_logprobs![i]![token]).toBe(token_logprobs![i])
    }
    const { choices: bare } = await client.completions.create({ ...greedy, logprobs: 0 })
    expect(bare[0]!.logprobs!.top_logprobs).toEqual(
      tokens!.map((token, i) => ({ [token]: token_logprobs![i] })),
    )
  })

  test('echo with logprobs scores the prompt; max_tokens 0 scores nothing else', async () => {
    const body = { ...greedy, prompt: 'The old tree', echo: true, logprobs: 0, max_tokens: 0 }
    const { choices, usage } = await client.completions.create(body)
    const { text, logprobs, finish_reason } = choices[0]!
    expect({ text, finish_reason }).toEqual({ text: 'The old tree', finish_reason: 'length' })
    expect(usage!.completion_tokens).toBe(0)
    const ids = fake.tokenizer.encode('The old tree')
    expect(logprobs!.tokens!.join('')).toBe('The old tree')
    expect(logprobs!.tokens).toHaveLength(ids.length)
    const [first, ...rest] = logprobs!.token_logprobs!
    expect(first).toBeNull()
    for (const value of rest) expect(value).toBeLessThan(0)
    expect(logprobs!.top_logprobs![0]).toBeNull()
    const longer = await client.completions.create({ ...body, max_tokens: 3 })
    const all = longer.choices[0]!
    expect(all.text.startsWith('The old tree')).toBe(true)
    expect(all.logprobs!.tokens!.join('')).toBe(all.text)
    expect(all.logprobs!.token_logprobs!.slice(0, ids.length)).toEqual([first, ...rest])
  })

  test('with ranks asked for, those at the prompt are told as not known', async () => {
    const body = { ...greedy, echo: true, logprobs: 2, max_tokens: 1 }
    const { choices } = await client.completions.create(body)
    const { top_logprobs } = choices[0]!.logprobs!
    const length = fake.tokenizer.encode('The tree').length
    expect(top_logprobs!.slice(0, length)).toEqual(Array(length).fill(null))
    expect(Object.keys(top_logprobs![length]!)).toHaveLength(2)
  })

  test('a character of several tokens: its parts are bytes, its text comes whole', async () => {
    const parts = fake.tokenizer.encode('€')
    expect(parts.length).toBeGreaterThan(1)
    // Where every other token is ruled out the sequence is forced.
    for (const part of parts) {
      const body = {
        ...greedy,
        prompt: 'a',
        max_tokens: 1,
        logprobs: 0,
        logit_bias: { [part]: 100 },
      }
      const { choices } = await client.completions.create(body)
      expect(choices[0]!.logprobs!.tokens![0]).toMatch(/^bytes:(\\x[0-9a-f]{2})+$/)
    }
    const prompt = await client.completions.create({
      ...{ ...greedy, prompt: 'a€b', echo: true, logprobs: 0, max_tokens: 0 },
    })
    const { tokens, text_offset } = prompt.choices[0]!.logprobs!
    const bytes = (token: string) => [...token.matchAll(/\\x(..)/g)].map(([, hex]) => `0x${hex}`)
    expect(Buffer.from(tokens!.slice(1, -1).flatMap(bytes).map(Number)).toString()).toBe('€')
    expect(text_offset!.at(-1)).toBe(2)
  })

  test('the end of sequence is counted but no part of text and logprobs', async () => {
    const end = fake.tokenizer.eosTokenId!
    const body = { ...greedy, logprobs: 1, logit_bias: { [end]: 100 } }
    const { choices, usage } = await client.completions.create(body)
    expect(choices[0]).toMatchObject({ text: '', finish_reason: 'stop' })
    expect(choices[0]!.logprobs!.tokens).toEqual([])
    expect(usage!.completion_tokens).toBe(1)
  })
})

describe('refusals', () => {
  const cases: [string, Record<string, unknown>, string, RegExp][] = [
    ['no prompt', { prompt: undefined }, 'prompt', /expected text, token ids, or a list/],
    ['an empty text', { prompt: '' }, 'prompt', /at least one token/],
    ['an empty list', { prompt: [] }, 'prompt', /expected text, token ids/],
    ['an empty list of tokens', { prompt: [[]] }, 'prompt.0', /found \[\]/],
    ['a mixture', { prompt: ['a', 1] }, 'prompt', /expected text, token ids/],
    ['no token', { prompt: [1, 640] }, 'prompt', /ids from 0 to 639, found 640/],
    ['a negative token', { prompt: [-1] }, 'prompt.0', /found -1/],
    ['many prompts', { prompt: Array(129).fill('a') }, 'n', /128 choices.* 1 times 129 prompts/],
    ['n times prompts', { prompt: ['a', 'b'], n: 65 }, 'n', /found 65 times 2 prompts/],
    ['nothing at all', { max_tokens: 0 }, 'max_tokens', /or echo to be true/],
    ['a suffix', { suffix: 'x' }, 'suffix', /not supported/],
    ['best_of', { n: 2, best_of: 3 }, 'best_of', /expected n \(2\)/],
    ['logprobs as in chat', { logprobs: true }, 'logprobs', /expected number, found true/],
    ['ranks', { logprobs: 21 }, 'logprobs', /found 21/],
    ['scores in a stream', { echo: true, logprobs: 1, stream: true }, 'logprobs', /in a stream/],
    ['the context', { max_tokens: 256 }, 'prompt', /at most 256 tokens in all/],
  ]
  test.each(cases)('%s', async (_, fields, param, message) => {
    const before = fake.engine.requests.length
    const { status, json } = await post(url, { ...greedy, ...fields })
    expect(json.error).toMatchObject({ type: 'invalid_request_error', param })
    expect(json.error.message).toMatch(message)
    expect(status).toBe(400)
    expect(fake.engine.requests).toHaveLength(before)
  })

  test('what cannot fit is refused before it is split into tokens', async () => {
    const { json } = await post(url, { ...greedy, prompt: 'the tree and '.repeat(400) })
    expect(json.error).toMatchObject({ param: 'prompt', code: 'context_length_exceeded' })
    expect(json.error.message).toMatch(/found 5200 characters, more than these can hold/)
  })
})

test('long texts are encoded aside, to the same tokens', async () => {
  const large = await startFake({ model: { contextLength: 10_000 } })
  const prompt = 'the tree and a € '.repeat(400)
  const one = { ...greedy, max_tokens: 1 }
  const all = [`${prompt}a`, prompt, `b${prompt}`]
  await Promise.all(
    all.map((text) => post(`${large.url}/v1/completions`, { ...one, prompt: text })),
  )
  const found = large.engine.requests.map((request) => (request.prompt as number[]).join())
  const expected = all.map((text) => fake.tokenizer.encode(text).join())
  expect(found.sort()).toEqual(expected.sort())
  // Others are answered meanwhile.
  const slow = post(`${large.url}/v1/completions`, { ...one, prompt: 'ab'.repeat(60_000) })
  const quick = post(`${large.url}/v1/completions`, { ...one, prompt: 'a' })
  const first = await Promise.race([slow.then(() => 'slow'), quick.then(() => 'quick')])
  expect(first).toBe('quick')
  expect((await slow).json.error.message).toMatch(/at most 10000 tokens in all, found \d+ of/)
})
