// What holds for every route: keys, methods, bodies, names, limits, metrics; and models.
import { connect } from 'node:net'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startServer } from '../../lib/serve/server.js'
import { rejection } from '../support/rejection.js'
import { post, type Running, send, startFake, until } from './support.js'

const stops: (() => Promise<void>)[] = []
afterAll(async () => {
  for (const stop of stops) await stop()
})
let fake: Running
beforeAll(async () => {
  fake = await startFake({ maxBodyBytes: 20_000 }, (stop) => stops.push(stop))
  await fake.engine.addAdapter('team/math', '/adapters/math')
})

const body = { model: 'tiny', prompt: 'The', max_tokens: 2 }

/** Everything a server says to bytes that no HTTP client would send. */
async function raw(text: string): Promise<string> {
  const socket = connect(fake.server.port, '127.0.0.1')
  socket.write(text)
  let answer = ''
  for await (const chunk of socket) answer += chunk
  return answer
}

describe('every refusal has the same shape', () => {
  test.each([
    ['GET', '/v1/nothing', 404, /expected a route of this server, found GET \/v1\/nothing/],
    ['POST', '/', 404, /found POST \//],
    ['GET', '/v1/chat/completions', 405, /expected POST, found GET/],
    ['PUT', '/v1/completions', 405, /expected POST, found PUT/],
    ['POST', '/v1/models', 405, /expected GET or HEAD, found POST/],
    ['DELETE', '/v1/models/tiny', 405, /expected GET or HEAD, found DELETE/],
    ['POST', '/health', 405, /expected GET or HEAD, found POST/],
    ['OPTIONS', '/v1/load_lora_adapter', 405, /expected POST, found OPTIONS/],
  ])('%s %s is a %d', async (method, path, status, message) => {
    const answer = await send(fake.url + path, { method })
    expect(answer.json.error.message).toMatch(message)
    expect(answer.json.error.type).toBe('invalid_request_error')
    expect(answer.status).toBe(status)
    if (status === 405) expect(answer.headers.get('allow')).toMatch(/^(POST|GET, HEAD)$/)
  })

  const url = () => `${fake.url}/v1/completions`
  test.each([
    ['no JSON', '{"model": ', 400, /expected JSON: /],
    ['nothing', '', 400, /expected JSON: /],
    ['a list', '[1]', 400, /expected a JSON object/],
    ['null', 'null', 400, /expected a JSON object/],
    ['a large body', JSON.stringify({ ...body, user: 'x'.repeat(20_000) }), 413, /20000 bytes/],
    ['a prototype', '{"__proto__": {"model": "tiny"}}', 400, /model: expected a name/],
  ])('%s as the body', async (_, text, status, message) => {
    const answer = await post(url(), text)
    expect(answer.json.error.message).toMatch(message)
    expect(answer.status).toBe(status)
  })

  test('text that is not UTF-8', async () => {
    const headers = { 'content-type': 'application/json' }
    const bytes = Buffer.concat([Buffer.from('{"model":"'), Buffer.of(0xff), Buffer.from('"}')])
    const answer = await send(url(), { method: 'POST', headers, body: bytes })
    expect(answer.status).toBe(400)
  })

  test.each([
    [{ 'content-type': 'text/plain' }, /expected application\/json, found "text\/plain"/],
    [{ 'content-type': 'application/x-www-form-urlencoded' }, /expected application\/json/],
    [{ 'content-encoding': 'gzip' }, /content-encoding: expected none, found "gzip"/],
  ])('%j is a 415', async (headers, message) => {
    const answer = await post(url(), body, headers)
    expect(answer.json.error.message).toMatch(message)
    expect(answer.status).toBe(415)
  })

  test('a body of unknown length is cut at the limit', async () => {
    let sent = 0
    const stream = new ReadableStream({
      pull(controller) {
        sent += 1000
        controller.enqueue(new TextEncoder().encode('x'.repeat(1000)))
        if (sent > 5_000_000) controller.close()
      },
    })
    const headers = { 'content-type': 'application/json' }
    const init = { method: 'POST', headers, body: stream, duplex: 'half' }
    const answer = await send(url(), init as RequestInit)
    expect(answer.status).toBe(413)
    expect(sent).toBeLessThan(5_000_000)
  })

  test('what is no HTTP', async () => {
    const answer = await raw('HELLO\r\n\r\n')
    expect(answer).toMatch(/^HTTP\/1\.1 400 Bad Request/)
    expect(JSON.parse(answer.split('\r\n\r\n')[1]!).error.type).toBe('invalid_request_error')
    const large = await raw(
      `GET / HTTP/1.1\r\nhost: localhost\r\nx: ${'x'.repeat(100_000)}\r\n\r\n`,
    )
    expect(large).toMatch(/^HTTP\/1\.1 431 /)
    expect((await send(`${fake.url}/health`)).status).toBe(200)
  })

  test('plain health checks: HEAD, and HTTP/1.0 without a host', async () => {
    const head = await fetch(`${fake.url}/health`, { method: 'HEAD' })
    expect(head.status).toBe(200)
    expect(await raw('GET /health HTTP/1.0\r\n\r\n')).toMatch(/^HTTP\/1\.1 200 .*"ok"/s)
  })

  test('a web page under a name of its own', async () => {
    const host = (name: string) =>
      raw(`GET /v1/models HTTP/1.1\r\nhost: ${name}\r\nconnection: close\r\n\r\n`)
    const answer = await host('evil.example:8080')
    expect(answer).toMatch(/^HTTP\/1\.1 403 /)
    expect(answer).toMatch(/expected localhost \(no API key is set\)/)
    for (const name of ['localhost', 'LOCALHOST:1', '127.0.0.1:99', '[::1]:80']) {
      expect(await host(name)).toMatch(/^HTTP\/1\.1 200 /)
    }
  })

  test('every answer has an id of its own', async () => {
    const ids = [await send(`${fake.url}/health`), await post(url(), {}), await post(url(), body)]
    expect(new Set(ids.map(({ headers }) => headers.get('x-request-id'))).size).toBe(3)
  })
})

describe('models', () => {
  test('the list has the base model and its adapters, for the client too', async () => {
    const client = new OpenAI({ baseURL: `${fake.url}/v1`, apiKey: 'none' })
    const list = await client.models.list()
    expect(list.data.map(({ id }) => id)).toEqual(['tiny', 'team/math'])
    for (const model of list.data) {
      expect(await client.models.retrieve(model.id)).toEqual(model)
      expect(model).toMatchObject({ object: 'model', owned_by: 's2ft', max_model_len: 256 })
    }
    expect(list.data[1]).toMatchObject({ parent: 'tiny' })
    const plain = await send(`${fake.url}/v1/models/team/math`)
    expect(plain.json.id).toBe('team/math')
  })

  test('an unknown one is a 404', async () => {
    const { status, json } = await send(`${fake.url}/v1/models/nobody`)
    expect({ status, code: json.error.code }).toEqual({ status: 404, code: 'model_not_found' })
    expect((await send(`${fake.url}/v1/models/%E0%A4%A`)).status).toBe(404)
  })
})

describe('API keys', () => {
  let guarded: Running
  const keys = ['first-key', 'second-key']
  beforeAll(async () => {
    guarded = await startFake({ apiKeys: keys }, (stop) => stops.push(stop))
  })

  test.each([
    [undefined],
    ['Bearer wrong'],
    ['Bearer'],
    ['Bearer '],
    ['Bearer first-key second-key'],
    ['Basic first-key'],
    ['first-key'],
    ['Bearer first-ke'],
    ['Bearer first-keyy'],
  ])('%s opens nothing but /health', async (authorization) => {
    const headers = authorization === undefined ? {} : { authorization }
    for (const path of ['/v1/models', '/metrics', '/v1/nothing', '/v1/completions']) {
      const answer = await send(guarded.url + path, { headers })
      expect(answer.status).toBe(401)
      expect(answer.headers.get('www-authenticate')).toBe('Bearer')
      expect(answer.json.error.code).toBe('invalid_api_key')
    }
    const answer = await post(`${guarded.url}/v1/completions`, body, headers as never)
    expect(answer.status).toBe(401)
    expect(guarded.engine.requests).toHaveLength(0)
    expect((await send(`${guarded.url}/health`, { headers })).status).toBe(200)
  })

  test('each key opens everything, and names of the machine are free then', async () => {
    for (const apiKey of keys) {
      const client = new OpenAI({ baseURL: `${guarded.url}/v1`, apiKey })
      expect((await client.models.list()).data).toHaveLength(1)
      const headers = { authorization: `bearer ${apiKey}` }
      expect((await send(`${guarded.url}/metrics`, { headers })).status).toBe(200)
    }
    const client = new OpenAI({ baseURL: `${guarded.url}/v1`, apiKey: 'wrong' })
    const error = await client.models.list().catch((reason) => reason)
    expect(error).toBeInstanceOf(OpenAI.AuthenticationError)
  })
})

describe('overload', () => {
  test('a full queue is a 503 that says when to try again', async () => {
    const small = await startFake({ maxSequences: 1, maxQueue: 1 })
    let release = () => {}
    small.engine.held = new Promise((resolve) => {
      release = resolve
    })
    const url = `${small.url}/v1/completions`
    const long = { ...body, max_tokens: 20 }
    const running = [post(url, long), post(url, long)]
    await until(() => small.engine.stats().waiting === 1)
    for (const stream of [false, true]) {
      const refused = await post(url, { ...long, stream })
      expect(refused.status).toBe(503)
      expect(refused.headers.get('retry-after')).toBe('1')
      expect(refused.json.error).toMatchObject({ type: 'server_error', code: 'overloaded' })
    }
    // One choice that finds no room takes the others with it.
    expect((await post(url, { ...long, n: 2 })).status).toBe(503)
    release()
    for (const answer of await Promise.all(running)) expect(answer.status).toBe(200)
    expect(small.engine.stats()).toMatchObject({ running: 0, waiting: 0 })
    const client = new OpenAI({ baseURL: `${small.url}/v1`, apiKey: 'none', maxRetries: 5 })
    const all = await Promise.all(Array.from({ length: 4 }, () => client.completions.create(body)))
    expect(all).toHaveLength(4)
    expect(small.failures).toEqual([])
  })

  test('requests that take too long end, whole and streamed', async () => {
    const slow = await startFake({ requestTimeout: 0.2, delay: 20 })
    const url = `${slow.url}/v1/completions`
    const long = { ...body, max_tokens: 200, temperature: 0, stop: '\u0000' }
    const whole = await post(url, long)
    expect(whole.status).toBe(504)
    expect(whole.json.error).toMatchObject({ code: 'timeout' })
    expect(whole.headers.get('x-should-retry')).toBe('false')
    const client = new OpenAI({ baseURL: `${slow.url}/v1`, apiKey: 'none' })
    let text = ''
    const error = await (async () => {
      for await (const part of await client.completions.create({ ...long, stream: true })) {
        text += part.choices[0]!.text
      }
    })().catch((reason) => reason)
    expect(error.message).toMatch(/took longer than 0\.2 seconds/)
    expect(text).not.toBe('')
    await until(() => slow.engine.running === 0)
    expect(slow.engine.stats().totals.aborted).toBe(2)
  })
})

describe('clients that go away', () => {
  test.each([[false], [true]])('stream %j: the engine is told at once', async (stream) => {
    const slow = await startFake({ delay: 10 })
    const gone = new AbortController()
    const long = { ...body, max_tokens: 250, stop: '\u0000', temperature: 0, stream, n: 2 }
    const answer = fetch(`${slow.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(long),
      signal: gone.signal,
    })
    if (stream) {
      const reader = (await answer).body!.getReader()
      await reader.read()
      gone.abort()
      await expect(reader.read()).rejects.toThrow()
    } else {
      await until(() => slow.engine.stats().totals.generatedTokens > 4)
      gone.abort()
      await expect(answer).rejects.toThrow()
    }
    await until(() => slow.engine.running === 0)
    const { generatedTokens, aborted } = slow.engine.stats().totals
    expect(aborted).toBe(2)
    expect(generatedTokens).toBeLessThan(100)
    const text = (await send(`${slow.url}/metrics`)).text
    const line = 's2ft_http_requests_total{route="/v1/completions",method="POST",status="499"} 1'
    expect(text).toContain(line)
    expect(slow.failures).toEqual([])
  })
})

describe('metrics', () => {
  test('tell of the engine, of requests and of their times', async () => {
    const counted = await startFake()
    await counted.engine.addAdapter('math', '/m')
    const url = `${counted.url}/v1/completions`
    const one = { ...body, max_tokens: 5, temperature: 0, stop: '\u0000' }
    await post(url, { ...one, n: 2 })
    await post(url, { ...one, model: 'math', stream: true })
    await post(url, { ...one, temperature: 9 })
    await send(`${counted.url}/v1/models/math`)
    await send(`${counted.url}/some/where`)
    const { text, headers, status } = await send(`${counted.url}/metrics`)
    expect(status).toBe(200)
    expect(headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/)
    const value = (line: string) => {
      const found = text.split('\n').find((other) => other.startsWith(`${line} `))
      return found === undefined ? undefined : Number(found.slice(line.length))
    }
    const route = (name: string, method: string, code: number) =>
      value(`s2ft_http_requests_total{route="${name}",method="${method}",status="${code}"}`)
    expect(route('/v1/completions', 'POST', 200)).toBe(2)
    expect(route('/v1/completions', 'POST', 400)).toBe(1)
    expect(route('/v1/models/:id', 'GET', 200)).toBe(1)
    expect(route('none', 'GET', 404)).toBe(1)
    expect(value('s2ft_choices_total{finish_reason="length"}')).toBe(3)
    expect(value('s2ft_sequences_total')).toBe(3)
    expect(value('s2ft_generated_tokens_total')).toBe(15)
    expect(value('s2ft_prompt_tokens_total')).toBeGreaterThanOrEqual(3)
    expect(value('s2ft_first_token_seconds_count')).toBe(3)
    expect(value('s2ft_token_seconds_count')).toBe(12)
    expect(value('s2ft_request_seconds_count')).toBe(3)
    expect(value('s2ft_adapters_known')).toBe(1)
    expect(value('s2ft_sequences_running')).toBe(0)
    expect(value('s2ft_cache_pages')).toBe(100)
    expect(value('process_resident_memory_bytes')).toBeGreaterThan(1e6)
    const again = await send(`${counted.url}/metrics`)
    expect(again.text).toContain('s2ft_generated_tokens_total 15\n')
  })
})

describe('options are checked', () => {
  const { engine, tokenizer } = { engine: () => fake.engine, tokenizer: () => fake.tokenizer }
  const model = () => ({
    ...{ name: 'tiny', tokenizer: tokenizer(), contextLength: 256, vocabSize: 640 },
  })
  test.each([
    [{ port: 70_000 }, 'INVALID_ARGUMENT', /port: .*found 70000/],
    [{ apiKeys: [''] }, 'INVALID_ARGUMENT', /apiKeys\.0: expected a key of visible ASCII/],
    [{ adapterRoot: '/nonexistent' }, 'IO', /adapterRoot: expected a directory at \/nonexistent/],
    [{ apiKey: 'x' }, 'INVALID_ARGUMENT', /unknown key "apiKey"/],
  ])('%j', async (options, code, message) => {
    const error = await rejection(() => startServer(engine(), model(), options as never))
    expect(error.code).toBe(code)
    expect(error.message).toMatch(message)
  })

  test('a port that is taken, and a name that is', async () => {
    const taken = () => startServer(engine(), model(), { port: fake.server.port })
    expect((await rejection(taken)).message).toMatch(
      /could not listen on 127.0.0.1 port \d+:.*INUSE/,
    )
    const twice = () => startServer(engine(), { ...model(), name: 'team/math' }, { port: 0 })
    expect((await rejection(twice)).message).toMatch(/an adapter has the base model's name/)
  })
})
