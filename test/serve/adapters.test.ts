// vLLM's routes that load and unload adapters, and the walls around the adapter root.
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { temporaryDirectory } from '../support/directories.js'
import { post, send, startFake } from './support.js'

let root: string
let outside: string

function makeAdapter(directory: string): void {
  mkdirSync(directory, { recursive: true })
  writeFileSync(join(directory, 'adapter_config.json'), '{}')
  writeFileSync(join(directory, 'adapter_model.safetensors'), '')
}

beforeAll(() => {
  const work = temporaryDirectory()
  root = join(work, 'root')
  outside = join(work, 'root-beside')
  makeAdapter(join(root, 'math'))
  makeAdapter(join(root, 'deep', 'code'))
  makeAdapter(join(root, 'broken'))
  makeAdapter(outside)
  symlinkSync(join(root, 'math'), join(root, 'link-inside'))
  symlinkSync(outside, join(root, 'link-outside'))
  symlinkSync(work, join(root, 'link-up'))
  mkdirSync(join(root, 'linked-file'))
  writeFileSync(join(root, 'linked-file', 'adapter_config.json'), '{}')
  symlinkSync(
    join(outside, 'adapter_model.safetensors'),
    join(root, 'linked-file', 'adapter_model.safetensors'),
  )
})

async function startRooted() {
  const fake = await startFake({ adapterRoot: root })
  return {
    ...fake,
    load: (lora_name: unknown, lora_path: unknown) =>
      post(`${fake.url}/v1/load_lora_adapter`, { lora_name, lora_path }),
    unload: (lora_name: unknown) => post(`${fake.url}/v1/unload_lora_adapter`, { lora_name }),
  }
}

test('an adapter comes, is listed, answers, and goes', async () => {
  const { engine, url, load, unload } = await startRooted()
  const loaded = await load('math', 'math')
  expect(loaded.status).toBe(200)
  expect(loaded.text).toBe("Success: LoRA adapter 'math' added successfully.")
  expect(engine.names.get('math')).toBe(join(root, 'math'))
  const body = { model: 'math', prompt: 'a', max_tokens: 2 }
  expect((await post(`${url}/v1/completions`, body)).json.model).toBe('math')
  const { data } = (await send(`${url}/v1/models`)).json
  expect(data.map(({ id }: { id: string }) => id)).toEqual(['tiny', 'math'])
  expect((await load('math', 'deep/code')).json.error.message).toMatch(/"math" is in use already/)
  expect((await load('tiny', 'math')).json.error.message).toMatch(/"tiny" is in use already/)
  expect((await unload('math')).text).toBe("Success: LoRA adapter 'math' removed successfully.")
  expect((await unload('math')).status).toBe(404)
  expect((await unload('tiny')).status).toBe(404)
  expect((await post(`${url}/v1/completions`, body)).status).toBe(404)
})

test.each([['math'], ['./deep/../math/'], ['deep/code'], ['link-inside']])(
  '%s lies inside',
  async (path) => {
    const { engine, load } = await startRooted()
    expect((await load('a', path)).status).toBe(200)
    expect((await load('b', join(root, path))).status).toBe(200)
    expect(engine.names.get('a')).toBe(engine.names.get('b'))
    expect(engine.names.get('a')!.startsWith(`${root}/`)).toBe(true)
  },
)

describe('nothing outside is reached or told of', () => {
  const paths: [string, string | (() => string)][] = [
    ['the root', '.'],
    ['its parent', '..'],
    ['a neighbour', '../root-beside'],
    ['a neighbour by its full name', () => outside],
    ['nothing elsewhere', '../nonexistent'],
    ['the file system', '/'],
    ['a file of the system', '/etc/passwd'],
    ['a long way up', '../../../../../../../../etc'],
    ['back through the root', 'math/../../root-beside'],
    ['a link to a neighbour', 'link-outside'],
    ['a link upwards', 'link-up/root-beside'],
    ['a file that is a link', 'linked-file'],
    ['a zero byte', 'math\u0000/../../root-beside'],
  ]
  test.each(paths)('%s', async (_, path) => {
    const { engine, load } = await startRooted()
    const { status, json } = await load('x', typeof path === 'string' ? path : path())
    expect(json.error).toMatchObject({ param: 'lora_path', type: 'invalid_request_error' })
    expect(json.error.message).toMatch(
      /^lora_path: expected a directory below the adapter root, found "/,
    )
    expect(status).toBe(400)
    expect(engine.names.size).toBe(0)
  })
})

test('what is inside but no adapter', async () => {
  const { engine, load } = await startRooted()
  const none = await load('x', 'nonexistent')
  expect(none.status).toBe(404)
  expect(none.json.error.message).toMatch(/found none at "nonexistent"/)
  expect((await load('x', 'math/adapter_config.json')).status).toBe(404)
  const broken = await load('x', 'broken')
  expect(broken.status).toBe(400)
  expect(broken.json.error).toMatchObject({
    message: 'lora_path: broken/adapter_config.json: expected JSON',
    code: 'corrupt_file',
  })
  expect(engine.names.size).toBe(0)
})

test.each([
  [{ lora_path: 'math' }, 'lora_name'],
  [{ lora_name: 'x' }, 'lora_path'],
  [{ lora_name: '', lora_path: 'math' }, 'lora_name'],
  [{ lora_name: 'a\nb', lora_path: 'math' }, 'lora_name'],
  [{ lora_name: 7, lora_path: 'math' }, 'lora_name'],
  [{ lora_name: 'x', lora_path: '' }, 'lora_path'],
])('%j is refused', async (body, param) => {
  const { url } = await startRooted()
  const { status, json } = await post(`${url}/v1/load_lora_adapter`, body)
  expect({ status, param: json.error.param }).toEqual({ status: 400, param })
})

test('without a root both routes are shut', async () => {
  const { engine, url } = await startFake()
  await engine.addAdapter('math', join(root, 'math'))
  const load = await post(`${url}/v1/load_lora_adapter`, { lora_name: 'a', lora_path: root })
  const unload = await post(`${url}/v1/unload_lora_adapter`, { lora_name: 'math' })
  for (const { status, json } of [load, unload]) {
    expect(status).toBe(403)
    expect(json.error.message).toMatch(/no --adapter-root/)
  }
  expect([...engine.names.keys()]).toEqual(['math'])
})
