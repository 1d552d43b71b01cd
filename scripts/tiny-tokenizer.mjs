// Trains the tiny model's tokenizer, byte-level BPE, on the tiny corpus and writes it in the
// format of Hugging Face tokenizers: tokenizer.json and tokenizer_config.json.
//   node scripts/tiny-tokenizer.mjs [DIR]     default models/tiny
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { document, generator } from './tiny-corpus.mjs'

const vocabularySize = 640
const specials = ['<|end|>', '<|system|>', '<|user|>', '<|assistant|>']

export const chatTemplate = [
  '{% for message in messages %}',
  "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}",
  '{% endfor %}',
  "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
].join('')

/** GPT-2's printable stand-ins for the 256 byte values. */
function byteSymbols() {
  const printable = [
    [0x21, 0x7e],
    [0xa1, 0xac],
    [0xae, 0xff],
  ]
  const symbols = []
  let next = 256
  for (let byte = 0; byte < 256; ++byte) {
    const shown = printable.some(([from, to]) => byte >= from && byte <= to)
    symbols.push(String.fromCodePoint(shown ? byte : next++))
  }
  return symbols
}

/** The pre-tokenizer's pattern, as GPT-2 has it. */
const pattern = /'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu

/** Words of the texts as symbol lists, with how often each occurs. */
function countWords(texts, symbols) {
  const counts = new Map()
  for (const text of texts) {
    for (const [word] of text.matchAll(pattern)) counts.set(word, (counts.get(word) ?? 0) + 1)
  }
  const encoder = new TextEncoder()
  return [...counts].map(([word, count]) => ({
    parts: [...encoder.encode(word)].map((byte) => symbols[byte]),
    count,
  }))
}

/** The most frequent neighbouring pair; ties go to the smaller text, so the result is fixed. */
function bestPair(list) {
  const pairs = new Map()
  for (const { parts, count } of list) {
    for (let i = 0; i + 1 < parts.length; ++i) {
      const key = `${parts[i]} ${parts[i + 1]}`
      pairs.set(key, (pairs.get(key) ?? 0) + count)
    }
  }
  let best
  for (const [key, count] of pairs) {
    if (!best || count > best.count || (count === best.count && key < best.key)) {
      best = { key, count }
    }
  }
  return best?.key.split(' ')
}

function merge(parts, left, right) {
  const merged = []
  for (let i = 0; i < parts.length; ++i) {
    const hit = parts[i] === left && parts[i + 1] === right
    merged.push(hit ? left + right : parts[i])
    if (hit) ++i
  }
  return merged
}

/** Trains on `count` documents of the corpus; returns tokenizer.json as an object. */
export function trainTokenizer(count = 20_000) {
  const random = generator(3)
  const texts = Array.from({ length: count }, () => document(random)).flatMap((item) =>
    item.text === undefined ? item.messages.map((message) => message.content) : [item.text],
  )
  const symbols = byteSymbols()
  const list = countWords(texts, symbols)
  const vocabulary = [...specials, ...symbols]
  const merges = []
  while (vocabulary.length < vocabularySize) {
    const pair = bestPair(list)
    if (!pair) break
    merges.push(pair.join(' '))
    vocabulary.push(pair.join(''))
    for (const word of list) word.parts = merge(word.parts, ...pair)
  }
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false }
  const byteLevel = {
    type: 'ByteLevel',
    add_prefix_space: false,
    trim_offsets: true,
    use_regex: true,
  }
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: specials.map((content, id) => ({ id, content, ...flags, special: true })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
      merges,
    },
  }
}

/** Writes the tokenizer's files into a model directory. */
export function writeTokenizer(directory) {
  const config = {
    tokenizer_class: 'PreTrainedTokenizerFast',
    eos_token: specials[0],
    pad_token: specials[0],
    model_max_length: 256,
    clean_up_tokenization_spaces: false,
    chat_template: chatTemplate,
  }
  mkdirSync(directory, { recursive: true })
  const write = (name, value) =>
    writeFileSync(join(directory, name), `${JSON.stringify(value, null, 1)}\n`)
  write('tokenizer.json', trainTokenizer())
  write('tokenizer_config.json', config)
}

if (process.argv[1] === import.meta.filename) writeTokenizer(process.argv[2] ?? 'models/tiny')
