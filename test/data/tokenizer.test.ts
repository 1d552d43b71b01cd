import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { strftime } from '../../lib/tokenizer/chat-template.js'
import { copyTokenizerFiles, Tokenizer } from '../../lib/tokenizer/index.js'
import {
  CHATML,
  failure,
  numbers,
  randomText,
  smollm2,
  temporaryDirectory,
  tinyDirectory,
  tinyTokenizer,
  tinyTokenizerJson,
} from './support.js'

interface Case {
  text: string
  ids: number[]
  bare: number[]
  decoded: string
  decodedAll: string
}

function golden(name: string): unknown {
  return JSON.parse(readFileSync(new URL(`golden/${name}`, import.meta.url), 'utf8'))
}

function check(tokenizer: Tokenizer, cases: Case[]): void {
  for (const { text, ids, bare, decoded, decodedAll } of cases) {
    expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(ids)
    expect(tokenizer.encode(text, { addSpecialTokens: false })).toEqual(bare)
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(decoded)
    expect(tokenizer.decode(ids)).toBe(decodedAll)
    const own = ids.filter((id) => !tokenizer.isSpecial(id)).map((id) => tokenizer.tokenBytes(id))
    // Decoding drops the space that some tokenizers put before a text.
    expect([decoded, ` ${decoded}`]).toContain(Buffer.concat(own).toString())
    const stream = tokenizer.stream()
    expect(ids.map((id) => stream.push(id)).join('') + stream.flush()).toBe(decoded)
  }
}

describe('the same ids and texts as the Rust library', () => {
  const families = golden('tokenizers.json') as Record<
    string,
    { tokenizer: Record<string, unknown>; cases: Case[] }
  >
  it.each(Object.keys(families))('%s', async (name) => {
    const { tokenizer, cases } = families[name]!
    const config = { bos_token: '<s>', eos_token: '</s>', chat_template: undefined }
    check(await tinyTokenizer({ tokenizer, config }), cases)
  })

  it.skipIf(!smollm2)('SmolLM2 (skipped without the model)', async () => {
    const tokenizer = await Tokenizer.load(smollm2!)
    check(tokenizer, golden('smollm2.json') as Case[])
    expect(tokenizer.eosTokenIds).toEqual([2])
    expect(tokenizer).toMatchObject({ bosTokenId: 1, padTokenId: 2, vocabSize: 49152 })
  })
})

describe('loading', () => {
  it('names the file it expected', async () => {
    const directory = temporaryDirectory()
    const error = await failure(() => Tokenizer.load(directory))
    expect(error.code).toBe('IO')
    expect(error.message).toContain(join(directory, 'tokenizer.json'))
  })

  it.each([
    ['half a file', '{"model": {"ty', 'CORRUPT_FILE', 'expected JSON'],
    ['an array', '[]', 'CORRUPT_FILE', 'found an array'],
    ['an unknown model', '{"model": {"type": "Magic", "vocab": {}}}', 'UNSUPPORTED_MODEL', 'Magic'],
    ['no model', '{}', 'UNSUPPORTED_MODEL', 'model'],
  ])('refuses %s', async (_, text, code, part) => {
    const directory = tinyDirectory({ files: { 'tokenizer.json': text } })
    const error = await failure(() => Tokenizer.load(directory))
    expect(error.code).toBe(code)
    expect(error.message).toContain(part)
    expect(error.message).toContain('tokenizer.json')
  })

  it('refuses a splitter that would give other ids than the Rust library', async () => {
    const split = { type: 'Split', pattern: { String: ' ' }, behavior: 'Removed', invert: false }
    const tokenizer = { ...tinyTokenizerJson(), pre_tokenizer: split }
    expect((await failure(() => tinyTokenizer({ tokenizer }))).code).toBe('UNSUPPORTED_MODEL')
  })

  it('takes the ends of sequence from all three configurations, numbers and arrays', async () => {
    const files = {
      'generation_config.json': { eos_token_id: [263, 265] },
      'config.json': { eos_token_id: 263, pad_token_id: 262 },
    }
    const tokenizer = await tinyTokenizer({ files })
    expect([...tokenizer.eosTokenIds].sort()).toEqual([263, 265])
    expect(tokenizer.eosTokenId).toBe(265)
    expect(tokenizer.padTokenId).toBe(262)
  })

  it('refuses an eos_token that the vocabulary lacks', async () => {
    const error = await failure(() => tinyTokenizer({ config: { eos_token: '<end>' } }))
    expect(error.code).toBe('INVALID_CONFIG')
    expect(error.message).toContain('<end>')
  })

  it('adds tokens that only tokenizer_config.json knows', async () => {
    const token = {
      content: '<tool>',
      special: true,
      normalized: false,
      lstrip: false,
      rstrip: false,
    }
    const tokenizer = await tinyTokenizer({ config: { added_tokens_decoder: { 266: token } } })
    expect(tokenizer.encode('a<tool>b')).toEqual([97, 266, 98].map((id) => byteId(tokenizer, id)))
    expect(tokenizer.vocabSize).toBe(267)
  })

  it('obeys explicit add_bos_token and add_eos_token', async () => {
    const tokenizer = await tinyTokenizer({ config: { add_bos_token: true, add_eos_token: true } })
    const bare = tokenizer.encode('the', { addSpecialTokens: false })
    expect(tokenizer.encode('the')).toEqual([262, ...bare, 265])
  })
})

/** Ids of single bytes are their place in the alphabet; higher ids stay. */
function byteId(tokenizer: Tokenizer, id: number): number {
  return id > 255 ? id : tokenizer.encode(String.fromCharCode(id))[0]!
}

describe('chat templates', () => {
  const turns = [{ role: 'user', content: 'the {{ cat }}' }]

  it('prefers chat_template.jinja, reads lists by the name default', async () => {
    const list = [
      { name: 'tool_use', template: 'T' },
      { name: 'default', template: 'D{{ messages[0].content }}' },
    ]
    const fromList = await tinyTokenizer({ config: { chat_template: list } })
    expect(fromList.applyChatTemplate(turns)).toBe('Dthe {{ cat }}')
    const files = { 'chat_template.jinja': 'J{{ bos_token }}{{ eos_token }}' }
    const fromFile = await tinyTokenizer({ config: { chat_template: list }, files })
    expect(fromFile.applyChatTemplate(turns)).toBe('J<s><|im_end|>')
  })

  it('adds the generation prompt when asked', async () => {
    const tokenizer = await tinyTokenizer()
    const text = '<|im_start|>user\nthe {{ cat }}<|im_end|>\n'
    expect(tokenizer.applyChatTemplate(turns)).toBe(text)
    const open = tokenizer.applyChatTemplate(turns, { addGenerationPrompt: true })
    expect(open).toBe(`${text}<|im_start|>assistant\n`)
  })

  it('passes on what the template raises, tools and the date in English', async () => {
    const chat_template =
      "{% if messages|length > 1 %}{{ raise_exception('one turn only') }}{% endif %}{{ strftime_now('%d %b %Y') }} {{ tools|length }}{% for i in range(2) %}{{ i }}{% endfor %}"
    const directory = tinyDirectory({ config: { chat_template } })
    const tokenizer = await Tokenizer.load(directory, { now: new Date(2024, 6, 5) })
    expect(tokenizer.applyChatTemplate(turns, { tools: [{}, {}] })).toBe('05 Jul 2024 201')
    const error = await failure(() => tokenizer.applyChatTemplate([...turns, ...turns]))
    expect(error.code).toBe('INVALID_DATA')
    expect(error.message).toContain('one turn only')
  })

  it('knows the fields of strftime that templates use', () => {
    const date = new Date(2024, 0, 9, 15, 4, 5)
    expect(strftime(date, '%A %-d %B %y, %I:%M:%S %p %% %H %a %m %Q')).toBe(
      'Tuesday 9 January 24, 03:04:05 PM % 15 Tue 01 %Q',
    )
  })

  it('says what is missing, and refuses a broken template', async () => {
    const none = await tinyTokenizer({ config: { chat_template: undefined } })
    expect(none.hasChatTemplate).toBe(false)
    expect((await failure(() => none.applyChatTemplate(turns))).message).toContain('chat_template')
    const error = await failure(() => tinyTokenizer({ config: { chat_template: '{% if %}' } }))
    expect(error.code).toBe('INVALID_CONFIG')
  })
})

describe('decoding', () => {
  it.each([1, 2, 3, 4, 5])('text survives encoding, random input %i', async (seed) => {
    const tokenizer = await tinyTokenizer()
    const next = numbers(seed)
    for (let i = 0; i < 40; i++) {
      const text = randomText(next, next(80))
      const ids = tokenizer.encode(text)
      expect(tokenizer.decode(ids)).toBe(text)
      const stream = tokenizer.stream({ skipSpecialTokens: false })
      const pieces = ids.map((id) => stream.push(id))
      expect(pieces.join('') + stream.flush()).toBe(text)
      for (const piece of pieces) expect(piece).not.toMatch(/\p{Cs}/u)
    }
  })

  it('holds back half a character and gives up on it at the end', async () => {
    const tokenizer = await tinyTokenizer()
    const [first, ...rest] = tokenizer.encode('日')
    const stream = tokenizer.stream()
    expect(stream.push(first!)).toBe('')
    expect(stream.push(rest)).toBe('日')
    expect(stream.push(first!)).toBe('')
    expect(stream.flush()).toBe('\uFFFD')
    expect(stream.push(tokenizer.encode('the'))).toBe('the')
  })

  it('skips special tokens when asked, and ids without a token always', async () => {
    const tokenizer = await tinyTokenizer()
    const ids = [...tokenizer.encode('<s>the<|im_end|>'), 99_999]
    expect(tokenizer.decode(ids)).toBe('<s>the<|im_end|>')
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe('the')
    expect(tokenizer.decode([])).toBe('')
    expect(tokenizer.encode('')).toEqual([])
  })
})

describe('copyTokenizerFiles', () => {
  it('copies what a tokenizer needs and nothing else', async () => {
    const from = tinyDirectory({
      files: { 'chat_template.jinja': CHATML, 'model.safetensors': 'x' },
    })
    const to = join(temporaryDirectory(), 'a/b')
    const names = await copyTokenizerFiles(from, to)
    expect(names.sort()).toEqual(readdirSync(to).sort())
    expect(existsSync(join(to, 'model.safetensors'))).toBe(false)
    const [a, b] = await Promise.all([Tokenizer.load(from), Tokenizer.load(to)])
    expect(b.encode('the 日')).toEqual(a.encode('the 日'))
  })

  it('fails without a tokenizer', async () => {
    const error = await failure(() =>
      copyTokenizerFiles(temporaryDirectory(), temporaryDirectory()),
    )
    expect(error.code).toBe('IO')
  })
})
