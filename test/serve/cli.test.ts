// s2ft serve as users run it: a process of its own over the tiny model, with three adapters at
// once, spoken to by OpenAI's client.
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Adapter, Engine, Model } from '../../lib/index.js'
import { expectError, s2ft, start, tinyModel } from '../cli/support.js'
import { finish, load, trainedKinds } from '../engine/support.js'
import { temporaryDirectory } from '../support/directories.js'
import { post, send } from './support.js'

const root = temporaryDirectory()
const kinds = ['cols', 'rows', 'lora']

beforeAll(async () => {
  const model = await load(tinyModel)
  for (const [name, adapter] of Object.entries(await trainedKinds(model))) {
    if (kinds.includes(name)) await adapter.save(join(root, name))
  }
  await model.dispose()
})

interface Process {
  child: ReturnType<typeof start>
  listening: Record<string, unknown>
  url: string
  lines: Record<string, unknown>[]
  errors: () => string
  /** Ends it and returns its exit status. */
  stop(signal?: NodeJS.Signals): Promise<number | null>
}

const processes: Process[] = []
afterAll(() => {
  for (const { child } of processes) child.kill('SIGKILL')
})

async function serve(...args: string[]): Promise<Process> {
  const base = ['serve', '--model', tinyModel, '--dtype', 'f32', '--port', '0', '--json']
  const child = start([...base, '--cache-memory', '8MB', '--adapter-memory', '8MB', ...args])
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text
  })
  const lines: Record<string, unknown>[] = []
  const reader = createInterface(child.stdout)
  reader.on('line', (line) => lines.push(JSON.parse(line)))
  await Promise.race([once(reader, 'line'), once(child, 'exit')])
  if (lines.length === 0) throw new Error(`no line from s2ft serve: ${stderr}`)
  const process: Process = {
    ...{ child, lines, listening: lines[0]!, url: String(lines[0]!.url) },
    errors: () => stderr,
    stop: async (signal = 'SIGTERM') => {
      child.kill(signal)
      const [status] = child.exitCode === null ? await once(child, 'exit') : [child.exitCode]
      return status
    },
  }
  processes.push(process)
  return process
}

const adapterArgs = () => kinds.flatMap((name) => ['--adapter', `${name}=${join(root, name)}`])
const messages = [
  { role: 'user' as const, content: 'What colour is the old tree beside the house?' },
]

describe('one process', () => {
  let server: Process
  let client: OpenAI
  beforeAll(async () => {
    server = await serve(...adapterArgs(), '--adapter-root', root)
    client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 })
  })

  test('says where it listens and what it serves', async () => {
    expect(server.listening).toMatchObject({
      ...{ type: 'listening', host: '127.0.0.1', model: 'tiny', adapters: kinds },
      ...{ contextLength: 256, url: `http://127.0.0.1:${server.listening.port}` },
    })
    const { data } = await client.models.list()
    expect(data.map(({ id }) => id)).toEqual(['tiny', ...kinds])
  })

  test('three adapters and the base answer at once, each as the engine does', async () => {
    const model = await load(tinyModel)
    const engine = await Engine.create(model, { cacheMemory: '8MB' })
    for (const name of kinds) await engine.addAdapter(name, join(root, name))
    const names = ['tiny', ...kinds]
    const streamed = async (name: string) => {
      const body = { model: name, messages, max_tokens: 24, temperature: 0, stream: true as const }
      let text = ''
      for await (const part of await client.chat.completions.create(body)) {
        text += part.choices[0]?.delta.content ?? ''
      }
      return text
    }
    const expected = async (name: string) => {
      const adapter = name === 'tiny' ? {} : { adapter: name }
      const { result } = await finish(engine, { prompt: messages, maxNewTokens: 24, ...adapter })
      return result.text
    }
    const found = await Promise.all([...names, ...names].map(streamed))
    const texts = await Promise.all(names.map(expected))
    expect(found).toEqual([...texts, ...texts])
    expect(new Set(texts).size).toBe(names.length)
    await engine.dispose()
    // The fused model says the same.
    const adapter = await Adapter.load(join(root, 'cols'))
    await model.fuse(adapter)
    const fused = await model.generateText(messages, { maxNewTokens: 24 })
    expect(fused.text).toBe(texts[1])
    await model.dispose()
  })

  test('a seed repeats a text beside others; a prompt that was seen comes from the cache', async () => {
    const body = { model: 'rows', messages, max_tokens: 20, seed: 7, n: 3 }
    const [first, again] = await Promise.all([
      client.chat.completions.create(body),
      client.chat.completions.create(body),
      client.chat.completions.create({ ...body, model: 'lora' }),
    ])
    const texts = first.choices.map(({ message }) => message.content)
    expect(again.choices.map(({ message }) => message.content)).toEqual(texts)
    expect(new Set(texts).size).toBe(3)
    const third = await client.chat.completions.create({ ...body, n: 1 })
    expect(third.usage!.prompt_tokens_details!.cached_tokens).toBeGreaterThanOrEqual(16)
    expect(third.choices[0]!.message.content).toBe(texts[0])
  })

  test('log-probabilities are the model’s own', async () => {
    const body = { model: 'tiny', prompt: 'The old tree', echo: true, logprobs: 0, max_tokens: 0 }
    const { choices } = await client.completions.create(body)
    await using model = await Model.load(tinyModel, { device: 'cpu', dtype: 'f32' })
    const tokens = (await model.tokenizer()).encode('The old tree')
    const expected = await model.logProbs(tokens)
    const [first, ...found] = choices[0]!.logprobs!.token_logprobs!
    expect(first).toBeNull()
    expect(found).toHaveLength(expected.length)
    for (const [i, value] of found.entries()) expect(value).toBeCloseTo(expected[i]!, 4)
    const top = await client.completions.create({
      ...body,
      echo: false,
      logprobs: 5,
      max_tokens: 4,
    })
    for (const ranked of top.choices[0]!.logprobs!.top_logprobs!) {
      const shares = Object.values(ranked).map(Math.exp)
      expect(shares.length).toBeGreaterThanOrEqual(5)
      expect(shares.reduce((a, b) => a + b)).toBeLessThanOrEqual(1 + 1e-6)
    }
  })

  test('an adapter is loaded, used and unloaded while others answer', async () => {
    const background = client.chat.completions.create({
      model: 'cols',
      messages,
      n: 4,
      max_tokens: 60,
    })
    const url = `${server.url}/v1`
    const loaded = await post(`${url}/load_lora_adapter`, { lora_name: 'new', lora_path: 'lora' })
    expect(loaded.text).toBe("Success: LoRA adapter 'new' added successfully.")
    const body = { messages, max_tokens: 16, temperature: 0 }
    const [fresh, old] = await Promise.all(
      ['new', 'lora'].map((model) => client.chat.completions.create({ ...body, model })),
    )
    expect(fresh!.choices[0]!.message.content).toBe(old!.choices[0]!.message.content)
    const none = await post(`${url}/load_lora_adapter`, { lora_name: 'x', lora_path: '.' })
    expect(none.status).toBe(400)
    await post(`${url}/unload_lora_adapter`, { lora_name: 'new' })
    const gone = await client.chat.completions.create({ ...body, model: 'new' }).catch((e) => e)
    expect(gone).toBeInstanceOf(OpenAI.NotFoundError)
    expect((await background).choices).toHaveLength(4)
  })

  test('clients that go away leave nothing behind', async () => {
    const gone = Array.from({ length: 8 }, async (_, i) => {
      const controller = new AbortController()
      const body = { model: kinds[i % 3]!, messages, n: 2, stream: true as const, temperature: 0 }
      const { signal } = controller
      const stream = await client.chat.completions.create(body, { signal }).catch(() => undefined)
      for await (const _part of stream ?? []) controller.abort()
    })
    await Promise.allSettled(gone)
    for (;;) {
      const { text } = await send(`${server.url}/metrics`)
      const value = (name: string) => Number(new RegExp(`^s2ft_${name} (.*)$`, 'm').exec(text)![1])
      if (value('sequences_running') + value('sequences_waiting') > 0) continue
      expect(value('cache_pages_used')).toBe(0)
      break
    }
  })

  test('a hundred clients at once get their answers', async () => {
    const names = ['tiny', ...kinds]
    const answers = await Promise.all(
      Array.from({ length: 100 }, (_, i) => {
        const prompt = `${i} and ${i + 1} are`
        const model = names[i % names.length]!
        return client.completions.create({ model, prompt, max_tokens: 4, n: 1 + (i % 3) })
      }),
    )
    for (const [i, { choices }] of answers.entries()) expect(choices).toHaveLength(1 + (i % 3))
    expect(server.errors()).toBe('')
  })

  test('SIGTERM lets what runs finish and ends with 0', async () => {
    const body = { model: 'rows', messages, temperature: 0, logit_bias: { 0: -100 } }
    const running = client.chat.completions.create(body)
    for (;;) {
      const { text } = await send(`${server.url}/metrics`)
      if (/^s2ft_sequences_running 1$/m.test(text)) break
    }
    const status = server.stop()
    const { usage, choices } = await running
    expect(choices[0]!.finish_reason).toBe('length')
    expect(usage!.total_tokens).toBe(256)
    expect(await status).toBe(0)
    expect(server.lines.slice(1)).toEqual([
      { type: 'stopping', running: 1, waiting: 0 },
      { type: 'stopped' },
    ])
    expect(server.errors()).toBe('')
  })
})

test('keys from the command line and the environment; a second signal ends at once', async () => {
  process.env.S2FT_API_KEY = 'from-env'
  let server: Process
  try {
    server = await serve('--api-key', 'from-flag', '--model-name', 'base', '--quantize', 'int8')
  } finally {
    delete process.env.S2FT_API_KEY
  }
  for (const [key, status] of [
    ['from-env', 200],
    ['from-flag', 200],
    ['other', 401],
  ] as const) {
    const headers = { authorization: `Bearer ${key}` }
    expect((await send(`${server.url}/v1/models`, { headers })).status).toBe(status)
  }
  const headers = { authorization: 'Bearer from-env' }
  const body = { model: 'base', prompt: 'The', max_tokens: 250, n: 16, logit_bias: { 0: -100 } }
  const running = post(`${server.url}/v1/completions`, body, headers).catch(() => undefined)
  while (!/running [1-9]/.test((await send(`${server.url}/metrics`, { headers })).text));
  server.child.kill('SIGINT')
  while (server.lines.length < 2) await once(server.child.stdout, 'data')
  expect(await server.stop('SIGINT')).toBe(130)
  expect(await running).toBeUndefined()
  expect(server.errors()).toBe('')
})

describe('what cannot be served', () => {
  const args = ['serve', '--model', tinyModel, '--port', '0']
  test.each([
    [['--adapter', 'math'], /expected <name>=<dir>/],
    [['--adapter', '=dir'], /expected <name>=<dir>/],
    [['--adapter', 'a=b', '--adapter', 'a=c'], /each name once, found a twice/],
    [['--adapter', 'tiny=b'], /tiny is the base model's name/],
    [['--api-key', ''], /'--api-key'.*found none/],
    [['--port', '70000'], /expected a whole number from 0 up to 65535/],
    [['--max-body', 'much'], /expected a size/],
    [['--request-timeout', '0'], /expected a number above 0/],
  ])('%j', (more, message) => {
    expectError(s2ft([...args, ...more]), 'USAGE', message)
  })

  test('an empty key in the environment does not open the server', () => {
    const env = { S2FT_API_KEY: '' }
    expectError(s2ft(args, { env }), 'USAGE', /S2FT_API_KEY.*found none/)
  })

  test.each([
    [['--adapter', 'a=/nonexistent'], 'IO', /\/nonexistent/],
    [['--adapter-root', '/nonexistent'], 'IO', /expected a directory at \/nonexistent/],
    [['--cache-memory', '1'], 'INVALID_ARGUMENT', /cacheMemory/],
  ])('%j', (more, code, message) => {
    expectError(s2ft([...args, ...more]), code, message)
  })
})
