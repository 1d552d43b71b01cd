import { describe, expect, it } from 'vitest'
import {
  alpacaPrompt,
  encodeChoice,
  encodePrompt,
  encodeRow,
  goldOf,
  isCorrect,
  loadDataset,
  parseRow,
  trainedTokens,
} from '../../lib/data/index.js'
import { failure, realData, tinyTokenizer } from './support.js'

function row(value: unknown) {
  const parsed = parseRow(value, 'f:1')
  if (typeof parsed === 'string') throw new Error(parsed)
  return parsed
}

const boolq = row({
  instruction: 'is the sea wet?\n\nAnswer format: true/false',
  input: '',
  output: 'the correct answer is true',
  answer: 'true',
})
const arc = row({
  instruction:
    'Which?\n\nAnswer1: a Answer2: b Answer3: c\n\nAnswer format: answer1/answer2/answer3',
  input: '',
  output: 'the correct answer is answer2',
  answer: 'answer2',
})
const mmlu = row({ question: 'Which?', choices: ['w', 'x', 'y', 'z'], answer: '2', subject: 's' })

describe('prompts', () => {
  it.each(['chat', 'alpaca', 'none'] as const)(
    'under %s are the beginning of the training sample',
    async (template) => {
      const tokenizer = await tinyTokenizer({
        config: { add_bos_token: true, add_eos_token: true },
      })
      for (const item of [boolq, arc, mmlu]) {
        const prompt = encodePrompt(item, tokenizer, { template })
        const sample = encodeRow(item, tokenizer, { template })[0]!
        const learnedFrom = sample.labels.findIndex((label) => label !== -100)
        expect([...sample.tokens.subarray(0, learnedFrom)]).toEqual([...prompt.tokens])
        expect(trainedTokens(sample)).toBe(sample.tokens.length - learnedFrom)
      }
    },
  )

  it('leave out a last turn of the assistant', async () => {
    const tokenizer = await tinyTokenizer()
    const user = { role: 'user', content: 'hi' }
    const open = '<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n'
    for (const messages of [[user], [user, { role: 'assistant', content: 'yo' }]]) {
      expect(encodePrompt(row({ messages }), tokenizer).text).toBe(open)
    }
    expect(encodePrompt(boolq, tokenizer, { template: 'alpaca' }).text).toBe(
      alpacaPrompt('is the sea wet?\n\nAnswer format: true/false'),
    )
  })
})

describe('multiple choice', () => {
  it.each([
    ['boolq', boolq, ['true', 'false'], 0, 'the correct answer is false'],
    ['arc', arc, ['answer1', 'answer2', 'answer3'], 1, 'the correct answer is answer3'],
    ['mmlu', mmlu, ['A', 'B', 'C', 'D'], 2, 'D'],
  ] as const)('%s', async (_, item, labels, gold, last) => {
    const tokenizer = await tinyTokenizer()
    const choice = encodeChoice(item, tokenizer)
    expect(choice.labels).toEqual(labels)
    expect(choice.gold).toBe(gold)
    const scored = choice.options.map((option) =>
      tokenizer.decode(option.labels.filter((label) => label !== -100)),
    )
    expect(scored.at(-1)).toBe(last)
    expect(new Set(scored).size).toBe(labels.length)
    for (const option of choice.options) {
      const context = option.tokens.filter((_, i) => option.labels[i] === -100)
      expect([...context]).toEqual([...choice.prompt.tokens])
    }
  })

  it('reads generated answers', () => {
    expect(isCorrect('the correct answer is answer2', goldOf(arc, 'choice'))).toBe(true)
    expect(isCorrect('it is true that answer3', goldOf(arc, 'choice'))).toBe(false)
    expect(isCorrect('The answer is C.', goldOf(mmlu, 'choice'))).toBe(true)
  })
})

describe('math', () => {
  it.each([
    [{ question: 'q', answer: '3 + 4 = 7\n#### 7' }, 'so 7.', true],
    [{ question: 'q', answer: '3 + 4 = 7\n#### 7' }, 'so 8.', false],
    [{ instruction: 'i', output: '', answer: '1.8333333333333335' }, 'about 1.8333', true],
    [{ instruction: 'i', output: 'x', answer: 'A' }, 'The answer is (A)', true],
    [{ instruction: 'i', output: 'x', answer: 'A' }, 'The answer is (D)', false],
    [{ prompt: 'p', completion: 'is 1,200' }, '$1200.00', true],
  ])('%j answered by %j: %s', (value, text, correct) => {
    expect(isCorrect(text, goldOf(row(value), 'math'))).toBe(correct)
  })

  it('refuses rows of the other task, by name', async () => {
    for (const [item, task] of [
      [arc, 'math'],
      [boolq, 'math'],
      [mmlu, 'math'],
      [row({ question: 'q', answer: '#### 7' }), 'choice'],
      [row({ instruction: 'i', output: 'o', answer: '7' }), 'choice'],
      [row({ text: 't' }), 'choice'],
    ] as const) {
      const error = await failure(() => goldOf(item, task))
      expect(error.code).toBe('INVALID_DATA')
      expect(error.message).toContain(`f:1: task "${task}" expected`)
    }
  })
})

it.skipIf(!realData)(
  'every real evaluation row has its gold answer (skipped without data)',
  async () => {
    const sets: [string, 'choice' | 'math'][] = [
      ...['boolq', 'ARC-Easy', 'ARC-Challenge', 'openbookqa', 'piqa', 'winogrande'].map(
        (name): [string, 'choice'] => [`commonsense/${name}-test.json`, 'choice'],
      ),
      ['mmlu/test.jsonl', 'choice'],
      ...['gsm8k', 'SVAMP', 'MultiArith', 'mawps', 'AQuA'].map((name): [string, 'math'] => [
        `math/${name}-test.json`,
        'math',
      ]),
      ['math/gsm8k-train.jsonl', 'math'],
    ]
    for (const [name, task] of sets) {
      const { rows } = await loadDataset(`${realData}/${name}`)
      for (const item of rows) {
        const gold = goldOf(item, task)
        const text = gold.task === 'math' ? `The answer is ${gold.value}.` : `is (${gold.label})`
        expect(isCorrect(text, gold), item.source).toBe(true)
        if (task === 'choice' && item.kind === 'instruction') {
          expect(isCorrect(item.output, gold), item.source).toBe(true)
        }
      }
    }
  },
)
