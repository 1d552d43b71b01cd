import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import {
  alpacaPrompt,
  describeReport,
  type EncodeDatasetOptions,
  encodeDataset,
  loadDataset,
} from '../../lib/data/index.js'
import { renderTurns } from '../../lib/data/turns.js'
import { Tokenizer } from '../../lib/tokenizer/index.js'
import {
  dataFile,
  failure,
  jsonl,
  numbers,
  randomText,
  realData,
  smollm2,
  tinyTokenizer,
} from './support.js'

async function encode(rows: unknown[], tokenizer: Tokenizer, options: EncodeDatasetOptions = {}) {
  const dataset = await loadDataset(dataFile('rows.jsonl', jsonl(rows)))
  return encodeDataset(dataset, tokenizer, options)
}

/** The text of all tokens and of the learned ones; checks that labels are the tokens or -100. */
function texts(sample: { tokens: Int32Array; labels: Int32Array }, tokenizer: Tokenizer) {
  const learned = sample.tokens.filter((token, i) => {
    const label = sample.labels[i]!
    if (label !== -100) expect(label).toBe(token)
    return label !== -100
  })
  return [tokenizer.decode(sample.tokens), tokenizer.decode(learned)]
}

const END = '<|im_end|>'
const turn = (role: string, content: string) => ({ role, content })
const chat = (...contents: string[]) =>
  contents.map((content, i) => turn(i % 2 === 0 ? 'user' : 'assistant', content))

describe('templates', () => {
  const open = '<|im_start|>assistant\n'
  it.each<[string, unknown, string, string]>([
    ['question', { question: 'the?', answer: 'on' }, 'the?', 'on'],
    ['prompt', { prompt: 'the', completion: 'an on' }, 'the', 'an on'],
    ['instruction', { instruction: 'Do', input: 'this', output: 'ok' }, 'Do\n\nthis', 'ok'],
    [
      'choice',
      { question: 'Q?', choices: ['x', 'y'], answer: 1 },
      'Q?\nA. x\nB. y\nAnswer with the letter of the correct choice.',
      'B',
    ],
  ])('chat: %s', async (_, row, user, answer) => {
    const tokenizer = await tinyTokenizer()
    const { samples } = await encode([row], tokenizer)
    const whole = `<|im_start|>user\n${user}${END}\n${open}${answer}${END}\n`
    expect(texts(samples[0]!, tokenizer)).toEqual([whole, `${answer}${END}\n`])
    expect([...samples[0]!.tokens]).toEqual(tokenizer.encode(whole))
    expect(tokenizer.encode(open).length).toBeGreaterThan(1)
  })

  it('alpaca: the prompt of the paper, then the answer and the end of sequence', async () => {
    const tokenizer = await tinyTokenizer({ config: { add_bos_token: true } })
    const row = { instruction: 'Is the sea wet?', input: '', output: 'the answer is true' }
    const { samples } = await encode([row], tokenizer, { template: 'alpaca' })
    const prompt =
      'Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nIs the sea wet?\n\n### Response:\n'
    expect(alpacaPrompt(row.instruction)).toBe(prompt)
    expect(texts(samples[0]!, tokenizer)).toEqual([
      `<s>${prompt}the answer is true${END}`,
      `the answer is true${END}`,
    ])
  })

  it('none: prompt and completion as they are', async () => {
    const tokenizer = await tinyTokenizer()
    const rows = [{ prompt: 'the', completion: ' an' }]
    const { samples } = await encode(rows, tokenizer, { template: 'none' })
    expect(texts(samples[0]!, tokenizer)).toEqual([`the an${END}`, ` an${END}`])
  })

  it('auto without a chat template: alpaca for instructions, none for prompts', async () => {
    const tokenizer = await tinyTokenizer({ config: { chat_template: undefined } })
    const rows = [
      { instruction: 'i', output: 'o' },
      { prompt: 'p', completion: 'c' },
    ]
    const { samples } = await encode(rows, tokenizer)
    expect(samples.map((sample) => texts(sample, tokenizer)[0])).toEqual([
      `${alpacaPrompt('i')}o${END}`,
      `pc${END}`,
    ])
    for (const [row, template] of [
      [{ question: 'q', answer: 'a' }, 'chat'],
      [{ messages: chat('a', 'b') }, 'auto'],
    ] as const) {
      const error = await failure(() => encode([row], tokenizer, { template }))
      expect(error.code).toBe('INVALID_ARGUMENT')
      expect(error.message).toContain('chat template')
    }
  })

  it('does not add a second end of sequence', async () => {
    const tokenizer = await tinyTokenizer({ config: { add_eos_token: true } })
    const { samples } = await encode([{ prompt: 'p', completion: 'c' }], tokenizer, {
      template: 'none',
    })
    expect(texts(samples[0]!, tokenizer)).toEqual([`pc${END}`, `c${END}`])
  })

  it('learns the token that straddles prompt and completion', async () => {
    const tokenizer = await tinyTokenizer()
    const row = { prompt: 'an t', completion: 'he on' }
    const { samples } = await encode([row], tokenizer, { template: 'none' })
    expect([...samples[0]!.tokens]).toEqual([...tokenizer.encode('an the on'), 265])
    expect(texts(samples[0]!, tokenizer)[1]).toBe(` the on${END}`)
  })

  it('learns everything when asked', async () => {
    const tokenizer = await tinyTokenizer()
    const rows = [{ question: 'q', answer: 'a' }]
    const { samples } = await encode(rows, tokenizer, { completionOnly: false })
    expect(samples[0]!.labels).toEqual(samples[0]!.tokens)
  })
})

describe('conversations', () => {
  const messages = [turn('system', 'the'), ...chat('one', 'two', 'three', 'four\n')]

  it('learns every turn of the assistant, and only the completion of prompt + completion', async () => {
    const tokenizer = await tinyTokenizer()
    const prompt = messages.slice(0, 4)
    const rows = [{ messages }, { prompt, completion: messages.slice(4) }]
    const { samples } = await encode(rows, tokenizer)
    const all = tokenizer.applyChatTemplate(messages)
    expect(texts(samples[0]!, tokenizer)).toEqual([all, `two${END}\nfour\n${END}\n`])
    expect(texts(samples[1]!, tokenizer)).toEqual([all, `four\n${END}\n`])
  })

  it.each([1, 2, 3])('of any content, random input %i', async (seed) => {
    const tokenizer = await tinyTokenizer()
    const next = numbers(seed)
    const rows = Array.from({ length: 15 }, () => {
      const contents = Array.from({ length: 2 + 2 * next(3) }, () => randomText(next, 1 + next(30)))
      return { messages: chat(...contents) }
    })
    const { samples } = await encode(rows, tokenizer)
    rows.forEach((row, i) => {
      const answers = row.messages.filter((message) => message.role === 'assistant')
      const learned = answers.map((message) => `${message.content}${END}\n`).join('')
      expect(texts(samples[i]!, tokenizer)).toEqual([
        tokenizer.applyChatTemplate(row.messages),
        learned,
      ])
    })
  })

  const loop = (body: string, rest = '') => `{% for m in messages %}${body}{% endfor %}${rest}`
  it.each<[string, string, string[]]>([
    [
      'that drops the reasoning of earlier turns',
      loop(
        "<{{ m.role }}>{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}</s>",
        '{% if add_generation_prompt %}<assistant>{% endif %}',
      ),
      ['two</s>', '<think>y</think>four</s>'],
    ],
    [
      'that opens a reasoning block in its generation prompt',
      loop(
        '<{{ m.role }}>{{ m.content }}</s>',
        '{% if add_generation_prompt %}<assistant><think>{% endif %}',
      ),
      ['x</think>two</s>', 'y</think>four</s>'],
    ],
    [
      'that opens a reasoning block and drops it from every turn',
      loop(
        "<{{ m.role }}>{{ m.content.split('</think>')[-1] }}</s>",
        '{% if add_generation_prompt %}<assistant><think>{% endif %}',
      ),
      ['two</s>', 'four</s>'],
    ],
    [
      'that trims, and has no generation prompt',
      loop("{{ '[' ~ m.role ~ '] ' ~ m.content | trim ~ '</s>' }}"),
      ['[assistant] <think>x</think>two</s>', '[assistant] <think>y</think>four</s>'],
    ],
    [
      'that refuses a conversation that ends with the user',
      loop(
        "{% if loop.last and m.role == 'user' %}{{ raise_exception('no') }}{% endif %}<{{ m.role }}>{{ m.content }}</s>",
      ),
      ['<think>x</think>two</s>', '<think>y</think>four</s>'],
    ],
  ])('with a template %s', async (_, chat_template, expected) => {
    const tokenizer = await tinyTokenizer({ config: { chat_template } })
    const turns = chat('one', '<think>x</think>two', 'three', '<think>y</think>four')
    const { text, spans } = renderTurns(tokenizer, turns)
    expect(spans.map(([start, end]) => text.slice(start, end))).toEqual(expected)
  })

  it('adds the end of sequence where a template has none', async () => {
    const chat_template = loop("{{ m.role ~ ': ' ~ m.content ~ '\n' }}")
    const tokenizer = await tinyTokenizer({ config: { chat_template } })
    const { samples } = await encode([{ messages: chat('hi', 'yo') }], tokenizer)
    expect(texts(samples[0]!, tokenizer)[0]).toBe(`user: hi\nassistant: yo\n${END}`)
  })

  it('names the row that the template refuses, or counts it', async () => {
    const chat_template = loop(
      "{% if m.role == 'bad' %}{{ raise_exception('bad role') }}{% endif %}{{ m.content }}",
    )
    const tokenizer = await tinyTokenizer({ config: { chat_template } })
    const rows = [{ messages: chat('a', 'b') }, { messages: [turn('bad', 'x')] }]
    const error = await failure(() => encode(rows, tokenizer))
    expect(error.code).toBe('INVALID_DATA')
    expect(error.message).toMatch(/rows\.jsonl:2: .*bad role/)
    const { report } = await encode(rows, tokenizer, { onBadRow: 'skip' })
    expect(report.dropped).toMatchObject([{ count: 1, reason: 'refused by the chat template' }])
  })
})

describe('text', () => {
  it('learns every token and the end', async () => {
    const tokenizer = await tinyTokenizer()
    const { samples } = await encode([{ text: 'the an' }], tokenizer)
    expect(texts(samples[0]!, tokenizer)).toEqual([`the an${END}`, `the an${END}`])
  })

  it.each([1, 2, 3])(
    'a text file is cut into blocks without loss, random input %i',
    async (seed) => {
      const tokenizer = await tinyTokenizer()
      const next = numbers(seed)
      const text = `start ${randomText(next, 3000)}`
      const dataset = await loadDataset(dataFile('all.txt', text))
      const size = 2 + next(90)
      const { samples, report } = await encodeDataset(dataset, tokenizer, { maxLength: size })
      const whole = [...tokenizer.encode(text), 265]
      const kept = samples.flatMap((sample) => [...sample.tokens])
      // Only a last block of one token, which has nothing to predict it from, is left out.
      expect(kept).toEqual(whole.slice(0, whole.length % size === 1 ? -1 : undefined))
      expect(samples.slice(0, -1).every((sample) => sample.tokens.length === size)).toBe(true)
      expect(report.truncated).toBe(0)
      const lines = samples.map((sample) => Number(sample.source.split(':').at(-1)))
      expect(lines).toEqual([...lines].sort((a, b) => a - b))
      expect(lines.at(-1)).toBeLessThanOrEqual(text.split('\n').length)
    },
  )
})

describe('length and report', () => {
  const rows = [
    { question: 'the', answer: 'an' },
    { question: 'the', answer: 'an on '.repeat(40) },
    { question: 'the '.repeat(200), answer: 'an' },
    { question: 'the', answer: '' },
    { messages: [turn('user', 'alone')] },
    { text: '' },
  ]

  it('counts what it cuts and drops, and names the first of each', async () => {
    const tokenizer = await tinyTokenizer()
    const path = dataFile('rows.jsonl', jsonl(rows))
    const { samples, report } = await encodeDataset(await loadDataset(path), tokenizer, {
      maxLength: 100,
    })
    expect(samples.map((sample) => sample.source)).toEqual([`${path}:1`, `${path}:2`])
    expect(samples[1]!.tokens).toHaveLength(100)
    expect(samples[1]!.labels).toHaveLength(100)
    expect(report).toMatchObject({ read: 6, kept: 2, truncated: 1 })
    expect(report.dropped).toEqual([
      { reason: 'no token to learn within maxLength 100', count: 1, first: `${path}:3` },
      { reason: 'no token to learn', count: 3, first: `${path}:4` },
    ])
    expect(report.tokens).toBe(samples.reduce((sum, sample) => sum + sample.tokens.length, 0))
    expect(describeReport(report)).toEqual([
      `1 of 6 rows dropped: no token to learn within maxLength 100 (first: ${path}:3)`,
      `3 of 6 rows dropped: no token to learn (first: ${path}:4)`,
      '1 of 2 samples cut to length',
    ])
  })

  it('fails when nothing is left, for bad options, and when cancelled', async () => {
    const tokenizer = await tinyTokenizer()
    const empty = await failure(() => encode(rows.slice(3), tokenizer))
    expect(empty.code).toBe('INVALID_DATA')
    expect(empty.message).toMatch(/nothing left to train on: 3 of 3 rows .*rows\.jsonl:1/)
    for (const maxLength of [0, 1, 2.5, Number.NaN]) {
      const error = await failure(() => encode(rows, tokenizer, { maxLength }))
      expect(error.code).toBe('INVALID_ARGUMENT')
    }
    const signal = AbortSignal.abort()
    expect((await failure(() => encode(rows, tokenizer, { signal }))).code).toBe('CANCELLED')
  })
})

it.skipIf(!smollm2 || !realData)(
  'GSM8K under the chat template is the rendered conversation (skipped without model and data)',
  async () => {
    const tokenizer = await Tokenizer.load(smollm2!)
    const path = `${realData}/math/gsm8k-train.jsonl`
    const { samples } = await encodeDataset(await loadDataset(path, { limit: 200 }), tokenizer)
    const lines = readFileSync(path, 'utf8').split('\n').slice(0, 200)
    lines.forEach((line, i) => {
      const { question, answer } = JSON.parse(line) as { question: string; answer: string }
      const whole = tokenizer.applyChatTemplate(chat(question, answer))
      expect([...samples[i]!.tokens]).toEqual(tokenizer.encode(whole, { addSpecialTokens: false }))
      expect(texts(samples[i]!, tokenizer)).toEqual([whole, `${answer}${END}\n`])
    })
  },
)
