// POST /v1/chat/completions, by the official client where it has the call.
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Tokenizer } from '../../lib/index.js'
import { tinyModel } from '../cli/support.js'
import { temporaryDirectory } from '../support/directories.js'
import { post, type Running, send, startFake } from './support.js'

const stops: (() => Promise<void>)[] = []
afterAll(async () => {
  for (const stop of stops) await stop()
})
let fake: Running
let client: OpenAI
const messages = [{ role: 'user' as const, content: 'How much is 2 and 3?' }]

beforeAll(async () => {
  fake = await startFake({ maxTokens: 200, maxChoices: 8 }, (stop) => stops.push(stop))
  await fake.engine.addAdapter('math', '/adapters/math')
  await fake.engine.addAdapter('code', '/adapters/code')
  client = new OpenAI({ baseURL: `${fake.url}/v1`, apiKey: 'none', maxRetries: 0 })
})

describe('answers', () => {
  test('a whole answer has text, reason and usage', async () => {
    const answer = await client.chat.completions.create({
      ...{ model: 'tiny', messages, max_tokens: 8, seed: 1 },
    })
    const { requests } = fake.engine
    const request = requests.at(-1)!
    const prompt = '<|user|>How much is 2 and 3?<|end|><|assistant|>'
    expect(request.prompt).toEqual(fake.tokenizer.encode(prompt, { addSpecialTokens: false }))
    expect(request).toMatchObject({ temperature: 1, topP: 1, topK: 0, maxNewTokens: 8 })
    expect(request.adapter).toBeUndefined()
    expect(answer.id).toMatch(/^chatcmpl-[0-9a-f]{32}$/)
    expect(answer).toMatchObject({ object: 'chat.completion', model: 'tiny' })
    expect(Math.abs(answer.created - Date.now() / 1000)).toBeLessThan(60)
    const [choice] = answer.choices
    expect(choice).toMatchObject({ index: 0, finish_reason: 'length', logprobs: null })
    expect(choice!.message.role).toBe('assistant')
    expect(choice!.message.content).not.toBe('')
    const length = (request.prompt as number[]).length
    expect(answer.usage).toEqual({
      prompt_tokens: length,
      completion_tokens: 8,
      total_tokens: length + 8,
      prompt_tokens_details: { cached_tokens: expect.any(Number) },
    })
  })

  test('a prompt that was seen is told as cached', async () => {
    const body = { model: 'code', messages, max_tokens: 1 }
    const first = await client.chat.completions.create(body)
    const second = await client.chat.completions.create(body)
    expect(first.usage!.prompt_tokens_details!.cached_tokens).toBe(0)
    expect(second.usage!.prompt_tokens_details!.cached_tokens).toBeGreaterThan(0)
  })

  test('a stream says the same as the whole answer', async () => {
    const body = { model: 'tiny', messages, max_tokens: 20, seed: 5, n: 3 }
    const whole = await client.chat.completions.create(body)
    const stream = await client.chat.completions.create({
      ...{ ...body, stream: true as const, stream_options: { include_usage: true } },
    })
    const texts = ['', '', '']
    const reasons: (string | null)[] = [null, null, null]
    const roles: string[] = []
    let usage: unknown
    for await (const part of stream) {
      expect(part.object).toBe('chat.completion.chunk')
      if (part.choices.length === 0) usage = part.usage
      else expect(part.usage).toBeNull()
      for (const { index, delta, finish_reason } of part.choices) {
        expect(reasons[index]).toBeNull()
        if (delta.role) roles[index] = delta.role
        texts[index] += delta.content ?? ''
        reasons[index] = finish_reason
      }
    }
    expect(texts).toEqual(whole.choices.map(({ message }) => message.content))
    expect(new Set(texts).size).toBe(3)
    expect(reasons).toEqual(whole.choices.map((choice) => choice.finish_reason))
    expect(roles).toEqual(['assistant', 'assistant', 'assistant'])
    const { prompt_tokens, completion_tokens } = whole.usage!
    expect(usage).toMatchObject({ prompt_tokens, completion_tokens })
  })

  test('a stream without usage ends with [DONE]', async () => {
    const body = { model: 'tiny', messages, max_tokens: 3, stream: true }
    const { status, text, headers } = await post(`${fake.url}/v1/chat/completions`, body)
    expect(status).toBe(200)
    expect(headers.get('content-type')).toBe('text/event-stream; charset=utf-8')
    const frames = text.split('\n\n')
    expect(frames.pop()).toBe('')
    expect(frames.pop()).toBe('data: [DONE]')
    const parts = frames.map((frame) => JSON.parse(frame.replace(/^data: /, '')))
    expect(parts[0].choices[0].delta).toEqual({ role: 'assistant', content: '', refusal: null })
    expect(parts.at(-1).choices[0]).toMatchObject({ delta: {}, finish_reason: 'length' })
    for (const part of parts) expect(part).not.toHaveProperty('usage')
  })

  test('the model names an adapter', async () => {
    const body = { messages, max_tokens: 12, temperature: 0 }
    const [base, math, code] = await Promise.all(
      ['tiny', 'math', 'code'].map((model) => client.chat.completions.create({ ...body, model })),
    )
    expect(math!.model).toBe('math')
    const texts = [base, math, code].map((answer) => answer!.choices[0]!.message.content)
    expect(new Set(texts).size).toBe(3)
  })

  test('stop ends the answer before the text', async () => {
    const body = { model: 'tiny', messages, max_tokens: 100, temperature: 0 }
    const free = await client.chat.completions.create({ ...body, max_tokens: 30 })
    const text = free.choices[0]!.message.content!
    const stop = text.slice(10, 12)
    const stopped = await client.chat.completions.create({ ...body, stop: ['\u0000', stop] })
    expect(stopped.choices[0]).toMatchObject({
      finish_reason: 'stop',
      message: { content: text.slice(0, text.indexOf(stop)) },
    })
  })

  test('log-probabilities: bytes join to the text, the greedy token is the likeliest', async () => {
    const body = { model: 'tiny', messages, max_tokens: 12, temperature: 0 }
    const reported = { ...body, logprobs: true, top_logprobs: 4 }
    const answer = await client.chat.completions.create(reported)
    const [choice] = answer.choices
    const content = choice!.logprobs!.content!
    expect(content).toHaveLength(12)
    const bytes = Buffer.from(content.flatMap((entry) => entry.bytes!))
    expect(bytes.toString()).toBe(choice!.message.content)
    for (const { token, logprob, top_logprobs } of content) {
      expect(top_logprobs).toHaveLength(4)
      expect(top_logprobs[0]).toMatchObject({ token, logprob })
      expect(logprob).toBeLessThan(0)
    }
    const streamed: unknown[] = []
    for await (const part of await client.chat.completions.create({ ...reported, stream: true })) {
      streamed.push(...(part.choices[0]?.logprobs?.content ?? []))
    }
    expect(streamed).toEqual(content)
  })

  test('every sampling field reaches the engine', async () => {
    await post(`${fake.url}/v1/chat/completions`, {
      ...{ model: 'math', messages, max_completion_tokens: 2, max_tokens: 9, n: 2, seed: -1 },
      ...{ temperature: 0.5, top_p: 0.9, top_k: 7, min_p: 0.1, repetition_penalty: 1.2 },
      ...{ frequency_penalty: -1, presence_penalty: 1.5, logit_bias: { 5: 100, 9: -2 } },
      ...{ stop: 'x', stop_token_ids: [3] },
    })
    const expected = {
      ...{ adapter: 'math', temperature: 0.5, topP: 0.9, topK: 7, minP: 0.1, maxNewTokens: 2 },
      ...{ repetitionPenalty: 1.2, frequencyPenalty: -1, presencePenalty: 1.5 },
      ...{ logitBias: { 5: 100, 9: -2 }, stop: ['x'], stopTokenIds: [3] },
    }
    const [first, second] = fake.engine.requests.slice(-2)
    expect(first).toMatchObject({ ...expected, seed: 2 ** 52 - 1 })
    expect(second).toMatchObject({ ...expected, seed: 2 ** 52 })
  })

  test('null is absence, harmless fields are ignored, top_p 0 and top_k -1 have their meaning', async () => {
    const { status } = await post(`${fake.url}/v1/chat/completions`, {
      ...{ model: 'tiny', messages, max_tokens: 1, top_p: 0, top_k: -1, temperature: null },
      ...{ user: 'u', metadata: { a: 'b' }, store: false, service_tier: 'auto', tools: [] },
      ...{ response_format: { type: 'text' }, tool_choice: 'none', stream: false, seed: null },
      ...{ logit_bias: null, stop: null, stream_options: null, parallel_tool_calls: true },
    })
    expect(status).toBe(200)
    expect(fake.engine.requests.at(-1)).toMatchObject({ temperature: 1, topP: 1, topK: 1 })
    expect(fake.engine.requests.at(-1)).not.toHaveProperty('seed')
  })

  test('text parts are joined; developer is system; names and template variables pass', async () => {
    const text = (value: string) => ({ type: 'text' as const, text: value })
    await client.chat.completions.create({
      ...{ model: 'tiny', max_tokens: 1 },
      messages: [
        { role: 'developer', content: 'Be short.' },
        { role: 'user', content: [text('One'), text('two')], name: 'u' },
      ],
    })
    const { prompt } = fake.engine.requests.at(-1)!
    expect(fake.tokenizer.decode(prompt as number[])).toBe(
      '<|system|>Be short.<|end|><|user|>One\ntwo<|end|><|assistant|>',
    )
    const { status } = await post(`${fake.url}/v1/chat/completions`, {
      ...{ model: 'tiny', messages, max_tokens: 1 },
      chat_template_kwargs: { messages: [], enable_thinking: false },
    })
    expect(status).toBe(200)
    const again = fake.engine.requests.at(-1)!.prompt as number[]
    expect(fake.tokenizer.decode(again)).toContain('How much is 2 and 3?')
  })

  test('without max_tokens the context is the limit, or the server', async () => {
    await client.chat.completions.create({ model: 'tiny', messages, stop: ' ' })
    expect(fake.engine.requests.at(-1)!.maxNewTokens).toBe(200)
    const free = await startFake()
    await post(`${free.url}/v1/chat/completions`, { model: 'tiny', messages, stop: ' ' })
    const { prompt, maxNewTokens } = free.engine.requests.at(-1)!
    expect(maxNewTokens).toBe(256 - (prompt as number[]).length)
  })
})

describe('refusals', () => {
  const part = (type: string) => [{ role: 'user', content: [{ type }] }]
  const cases: [string, Record<string, unknown>, string, RegExp][] = [
    [
      'no model',
      { model: undefined },
      'model',
      /expected a name of GET \/v1\/models, found nothing/,
    ],
    ['no messages', { messages: undefined }, 'messages', /expected a list of messages/],
    ['empty messages', { messages: [] }, 'messages', /found \[\]/],
    ['a role', { messages: [{ role: 'x', content: '' }] }, 'messages.0.role', /found "x"/],
    ['no content', { messages: [{ role: 'user' }] }, 'messages.0.content', /expected text or a/],
    ['an image', { messages: part('image_url') }, 'messages', /content\.0.*type "image_url"/],
    ['a text part without text', { messages: part('text') }, 'messages', /one without text/],
    [
      'a tool call',
      { messages: [{ role: 'assistant', content: '', tool_calls: [{}] }] },
      'messages',
      /messages\.0\.tool_calls: not supported/,
    ],
    ['tools', { tools: [{ type: 'function' }] }, 'tools', /not supported/],
    ['a format', { response_format: { type: 'json_schema' } }, 'response_format', /not supp/],
    ['a grammar', { guided_json: {} }, 'guided_json', /not supported/],
    ['ignore_eos', { ignore_eos: true }, 'ignore_eos', /not supported/],
    ['hot', { temperature: 2.5 }, 'temperature', /<=2, found 2\.5/],
    ['words', { temperature: 'hot' }, 'temperature', /expected number, found "hot"/],
    ['top_p', { top_p: 1.5 }, 'top_p', /found 1\.5/],
    ['top_k', { top_k: -2 }, 'top_k', /found -2/],
    ['min_p', { min_p: -0.1 }, 'min_p', /found -0\.1/],
    ['penalty', { presence_penalty: 3 }, 'presence_penalty', /found 3/],
    ['repetition', { repetition_penalty: 0 }, 'repetition_penalty', /found 0/],
    ['half a token', { max_tokens: 1.5 }, 'max_tokens', /found 1\.5/],
    ['no tokens', { max_tokens: 0 }, 'max_tokens', /found 0/],
    ['too many tokens', { max_tokens: 201 }, 'max_tokens', /at most 200, found 201/],
    ['more than the context', { max_tokens: 256 }, 'messages', /at most 256 tokens in all.* 256/],
    ['bias of a word', { logit_bias: { the: 1 } }, 'logit_bias', /ids from 0 to 639, found "the"/],
    ['bias of no token', { logit_bias: { 640: 1 } }, 'logit_bias', /found "640"/],
    ['bias too strong', { logit_bias: { 1: 101 } }, 'logit_bias.1', /found 101/],
    ['empty stop', { stop: '' }, 'stop', /found ""/],
    ['many stops', { stop: Array(17).fill('a') }, 'stop', /up to 16 texts/],
    ['n', { n: 0 }, 'n', /found 0/],
    ['many choices', { n: 9 }, 'n', /at most 8 choices in all, found 9/],
    ['best_of', { best_of: 2 }, 'best_of', /expected n \(1\) or nothing, found 2/],
    ['ranks alone', { top_logprobs: 2 }, 'top_logprobs', /expected logprobs to be true/],
    ['many ranks', { logprobs: true, top_logprobs: 21 }, 'top_logprobs', /found 21/],
    ['logprobs as a number', { logprobs: 2 }, 'logprobs', /expected boolean, found 2/],
    ['a seed', { seed: 0.5 }, 'seed', /found 0\.5/],
    ['stream', { stream: 'yes' }, 'stream', /expected boolean, found "yes"/],
    ['stream_options', { stream_options: {} }, 'stream_options', /expected stream to be true/],
  ]
  test.each(cases)('%s', async (_, fields, param, message) => {
    const before = fake.engine.requests.length
    const body = { model: 'tiny', messages, max_tokens: 4, ...fields }
    const { status, json } = await post(`${fake.url}/v1/chat/completions`, body)
    expect(json.error).toMatchObject({ type: 'invalid_request_error', param })
    expect(json.error.message).toMatch(message)
    expect(status).toBe(400)
    expect(fake.engine.requests).toHaveLength(before)
  })

  test('an unknown model is a 404, in a stream too', async () => {
    for (const stream of [false, true]) {
      const body = { model: 'gpt-4', messages, stream }
      const error = await client.chat.completions.create(body).catch((reason) => reason)
      expect(error).toBeInstanceOf(OpenAI.NotFoundError)
      expect(error).toMatchObject({ code: 'model_not_found', param: 'model' })
    }
  })

  test('a prompt that is longer than the context', async () => {
    const words = (count: number) => [{ role: 'user', content: 'tree '.repeat(count) }]
    const url = `${fake.url}/v1/chat/completions`
    const long = await post(url, { model: 'tiny', messages: words(400), max_tokens: 1 })
    expect(long.json.error).toMatchObject({ code: 'context_length_exceeded', param: 'messages' })
    expect(long.json.error.message).toMatch(/at most 256 tokens in all, found \d+ of the prompt/)
    const huge = await post(url, { model: 'tiny', messages: words(100_000), max_tokens: 1 })
    expect(huge.json.error.message).toMatch(/found 5000\d\d characters, more than these can hold/)
  })

  test('a template that refuses, and a model without one', async () => {
    const withTemplate = async (template: string | undefined) => {
      const directory = temporaryDirectory()
      const config = JSON.parse(readFileSync(join(tinyModel, 'tokenizer_config.json'), 'utf8'))
      copyFileSync(join(tinyModel, 'tokenizer.json'), join(directory, 'tokenizer.json'))
      writeFileSync(
        join(directory, 'tokenizer_config.json'),
        JSON.stringify({ ...config, chat_template: template }),
      )
      const { url } = await startFake({ model: { tokenizer: await Tokenizer.load(directory) } })
      return post(`${url}/v1/chat/completions`, { model: 'tiny', messages })
    }
    const none = await withTemplate(undefined)
    expect(none.status).toBe(400)
    expect(none.json.error.message).toMatch(/tiny has no chat template.*\/v1\/completions/)
    const picky = await withTemplate("{{ raise_exception('roles must alternate') }}")
    expect(picky.status).toBe(400)
    expect(picky.json.error).toMatchObject({
      message: 'messages: the chat template refuses them: roles must alternate',
      param: 'messages',
    })
  })

  test('an error within a stream is told as its part', async () => {
    fake.engine.failure = { at: 2, error: new Error('secret of /etc') }
    const body = { model: 'tiny', messages, temperature: 0, stream: true as const }
    const seen: string[] = []
    const error = await (async () => {
      for await (const part of await client.chat.completions.create(body)) {
        seen.push(part.choices[0]!.delta.content ?? '')
      }
    })().catch((reason) => reason)
    expect(seen.join('')).not.toBe('')
    expect(error).toBeInstanceOf(OpenAI.APIError)
    expect(error.message).toMatch(/server failed \(INTERNAL\)/)
    expect(error.message).not.toMatch(/secret/)
    expect(fake.failures.at(-1)).toMatchObject({ message: 'secret of /etc' })
  })

  test('an error before the first token is a 500', async () => {
    fake.engine.failure = { at: 0, error: new Error('secret') }
    const body = { model: 'tiny', messages, stream: true }
    const { status, json } = await post(`${fake.url}/v1/chat/completions`, body)
    expect({ status, type: json.error.type }).toEqual({ status: 500, type: 'server_error' })
    expect((await send(`${fake.url}/health`)).status).toBe(200)
  })
})
