// Reads and copies the tokenizer's files of a Hugging Face model directory.

import { copyFile, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { S2FTError } from '../errors.js'
import { makeDirectory } from '../model/make-directory.js'

export type JsonObject = Record<string, unknown>

/** What a directory says about its tokenizer, parsed but not interpreted. */
export interface TokenizerFiles {
  directory: string
  tokenizer: JsonObject
  tokenizerConfig: JsonObject
  generationConfig: JsonObject
  modelConfig: JsonObject
  specialTokensMap: JsonObject
  /** Text of `chat_template.jinja`; it wins over the template in tokenizer_config.json. */
  chatTemplate: string | undefined
}

/** Everything next to the weights that a tokenizer, here or in other programs, may read. */
const COPIED_FILES = [
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
  'chat_template.json',
  'vocab.json',
  'merges.txt',
  'tokenizer.model',
]

function isMissing(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code
  return code === 'ENOENT' || code === 'ENOTDIR'
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return (await readFile(path, 'utf8')).replace(/^\uFEFF/, '')
  } catch (cause) {
    if (isMissing(cause)) return undefined
    throw new S2FTError('IO', `${path}: cannot be read: ${(cause as Error).message}`, { cause })
  }
}

async function readJson(path: string): Promise<JsonObject | undefined> {
  const text = await readText(path)
  if (text === undefined) return undefined
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    const reason = (cause as Error).message
    throw new S2FTError('CORRUPT_FILE', `${path}: expected JSON: ${reason}`, { cause })
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    const found = Array.isArray(value) ? 'an array' : String(value)
    throw new S2FTError('CORRUPT_FILE', `${path}: expected a JSON object, found ${found}`)
  }
  return value as JsonObject
}

/** Reads the tokenizer's files of `directory`. Throws IO when tokenizer.json is not there. */
export async function readTokenizerFiles(directory: string): Promise<TokenizerFiles> {
  const path = join(directory, 'tokenizer.json')
  const tokenizer = await readJson(path)
  if (!tokenizer) {
    throw new S2FTError(
      'IO',
      `no tokenizer in ${directory}: expected the file ${path} (the "fast" format; ` +
        'transformers writes it with AutoTokenizer.from_pretrained(...).save_pretrained(...))',
      { details: { expected: path } },
    )
  }
  const read = async (name: string) => (await readJson(join(directory, name))) ?? {}
  const [tokenizerConfig, generationConfig, modelConfig, specialTokensMap] = await Promise.all([
    read('tokenizer_config.json'),
    read('generation_config.json'),
    read('config.json'),
    read('special_tokens_map.json'),
  ])
  const chatTemplate = await readText(join(directory, 'chat_template.jinja'))
  return {
    directory,
    tokenizer,
    tokenizerConfig,
    generationConfig,
    modelConfig,
    specialTokensMap,
    chatTemplate,
  }
}

/**
 * Copies the tokenizer's files (vocabulary, configuration, chat template) between directories.
 * Returns the names copied. Throws IO when `from` has no tokenizer.json or `to` is not writable.
 */
export async function copyTokenizerFiles(from: string, to: string): Promise<string[]> {
  const fail = (cause: unknown): never => {
    const reason = (cause as Error).message
    throw new S2FTError('IO', `tokenizer of ${from} cannot be copied to ${to}: ${reason}`, {
      cause,
    })
  }
  const present = new Set(await readdir(from).catch(fail))
  if (!present.has('tokenizer.json')) {
    throw new S2FTError('IO', `no tokenizer in ${from}: expected ${join(from, 'tokenizer.json')}`)
  }
  const names = COPIED_FILES.filter((name) => present.has(name))
  await makeDirectory(to).catch(fail)
  for (const name of names) await copyFile(join(from, name), join(to, name)).catch(fail)
  return names
}
