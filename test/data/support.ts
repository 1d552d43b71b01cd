// Small tokenizers, data files and real data for the tests of the data layer.
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll } from 'vitest'
import { S2FTError } from '../../lib/errors.js'
import { Tokenizer } from '../../lib/tokenizer/index.js'

const made: string[] = []
afterAll(() => {
  for (const directory of made.splice(0)) rmSync(directory, { recursive: true, force: true })
})

export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 's2ft-data-'))
  made.push(directory)
  return directory
}

/** Writes a file into a fresh directory and returns its path. */
export function dataFile(name: string, content: string | Buffer): string {
  const path = join(temporaryDirectory(), name)
  writeFileSync(path, content)
  return path
}

export function jsonl(rows: unknown[]): string {
  return rows.map((row) => `${JSON.stringify(row)}\n`).join('')
}

export const CHATML =
  "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

/** The byte-level alphabet: byte value to the character that stands for it. */
function byteCharacters(): string[] {
  const printable = (b: number) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174
  let next = 256
  return Array.from({ length: 256 }, (_, b) => String.fromCodePoint(printable(b) ? b : next++))
}

/** A byte-level BPE tokenizer.json with a handful of merges; ids 0..255 are the bytes. */
export function tinyTokenizerJson(): Record<string, unknown> {
  const tokens = byteCharacters()
  const merges = [
    ['t', 'h'],
    ['th', 'e'],
    ['Ġ', 'the'],
    ['a', 'n'],
    ['Ċ', 'Ċ'],
    ['o', 'n'],
  ]
  for (const [a, b] of merges) tokens.push(`${a}${b}`)
  const special = ['<s>', '</s>', '<|im_start|>', '<|im_end|>']
  return {
    version: '1.0',
    added_tokens: special.map((content, i) => ({
      id: tokens.length + i,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: true },
    post_processor: null,
    decoder: { type: 'ByteLevel' },
    model: { type: 'BPE', vocab: Object.fromEntries(tokens.map((t, i) => [t, i])), merges },
  }
}

export interface TinyOptions {
  tokenizer?: Record<string, unknown>
  config?: Record<string, unknown>
  /** Further files by name; objects are written as JSON. */
  files?: Record<string, unknown>
}

/** A directory with the tiny tokenizer; it has ChatML and ends turns with <|im_end|>. */
export function tinyDirectory(options: TinyOptions = {}): string {
  const directory = temporaryDirectory()
  const files: Record<string, unknown> = {
    'tokenizer.json': options.tokenizer ?? tinyTokenizerJson(),
    'tokenizer_config.json': {
      bos_token: '<s>',
      eos_token: '<|im_end|>',
      chat_template: CHATML,
      ...options.config,
    },
    ...options.files,
  }
  mkdirSync(directory, { recursive: true })
  for (const [name, value] of Object.entries(files)) {
    writeFileSync(join(directory, name), typeof value === 'string' ? value : JSON.stringify(value))
  }
  return directory
}

export function tinyTokenizer(options: TinyOptions = {}): Promise<Tokenizer> {
  return Tokenizer.load(tinyDirectory(options))
}

/** Runs something that must fail with an S2FTError and returns that error. */
export async function failure(run: () => unknown): Promise<S2FTError> {
  try {
    await run()
  } catch (error) {
    if (error instanceof S2FTError) return error
    throw error
  }
  throw new Error('expected an S2FTError, nothing was thrown')
}

/** A small generator for random inputs; the seed is printed by the test's name. */
export function numbers(seed: number): (bound: number) => number {
  let state = seed >>> 0
  return (bound) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * bound)
  }
}

/** Random text of all kinds of characters. */
export function randomText(next: (bound: number) => number, length: number): string {
  const pools = [' the an on ', '\n\n\t ', '0123456789', 'äöüßéñ', '日本語', '👩‍👧🇫🇷😀', '{}"\\<|>']
  let text = ''
  while (text.length < length) {
    const pool = [...pools[next(pools.length)]!]
    text += pool[next(pool.length)]!
  }
  return text
}

const model = process.env.S2FT_SMOLLM2 ?? join(homedir(), '.cache/s2ft/SmolLM2-135M-Instruct')
const data = fileURLToPath(new URL('../../../shared/data', import.meta.url))

/** The real model's directory, or undefined (then its tests are skipped, and say so). */
export const smollm2 = existsSync(join(model, 'tokenizer.json')) ? model : undefined
/** The real data sets' directory, or undefined. */
export const realData = existsSync(join(data, 'math')) ? data : undefined
