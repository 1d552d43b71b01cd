// MT-Bench's questions, prompts and answer lines.
import { describe, expect, test } from 'vitest'
import { encodePrompt } from '../../lib/data/index.js'
import {
  answeredSample,
  answerLine,
  loadMtBench,
  temperatureOf,
  turnPrompt,
} from '../../lib/eval/mt-bench.js'
import { dataFile, failure, jsonl, realData, tinyTokenizer } from '../data/support.js'

const lines = [
  { question_id: 81, category: 'writing', turns: ['Write.', 'Again.'] },
  { question_id: 82, category: 'math', turns: ['Count.', 'On.'], reference: ['1', '2'] },
]
const load = (rows: unknown[]) => loadMtBench(dataFile('question.jsonl', jsonl(rows)))

describe('questions', () => {
  test('are read with their category and turns', async () => {
    const questions = await load(lines)
    expect(questions).toMatchObject(lines)
    expect(questions.map(temperatureOf)).toEqual([0.7, 0])
    expect(temperatureOf({ ...questions[1]!, required_temperature: 0.3 })).toBe(0.3)
    expect(temperatureOf({ ...questions[1]!, category: 'cooking' })).toBe(0.7)
  })

  test.each([
    ['no turns', { question_id: 1, category: 'math', turns: [] }, /:3: .*turns/],
    ['no id', { category: 'math', turns: ['a'] }, /:3: .*question_id/],
    ['an id that is there', lines[0], /:3: question_id 81 is there twice/],
  ])('%s', async (_, row, message) => {
    const error = await failure(() => load([...lines, row]))
    expect(error.code).toBe('INVALID_DATA')
    expect(error.message).toMatch(message)
  })
})

describe('the second turn follows the first and its answer', () => {
  const prompt = async (template: 'auto' | 'chat' | 'alpaca' | 'none', chat = true) => {
    const [question] = await load(lines)
    const tokenizer = await tinyTokenizer(chat ? {} : { config: { chat_template: undefined } })
    const turn = turnPrompt(question!, ['Done.'], tokenizer, template)
    return encodePrompt(turn.row, tokenizer, { template: turn.template }).text
  }
  const conversation =
    '<|im_start|>user\nWrite.<|im_end|>\n<|im_start|>assistant\nDone.<|im_end|>\n' +
    '<|im_start|>user\nAgain.<|im_end|>\n<|im_start|>assistant\n'
  const instructions =
    'Below is an instruction that describes a task. Write a response that appropriately ' +
    'completes the request.\n\n### Instruction:\nWrite.\n\n### Response:\nDone.\n\n' +
    '### Instruction:\nAgain.\n\n### Response:\n'

  test('chat', async () => {
    expect(await prompt('chat')).toBe(conversation)
    expect(await prompt('auto')).toBe(conversation)
  })

  test('alpaca', async () => {
    expect(await prompt('alpaca')).toBe(instructions)
    expect(await prompt('auto', false)).toBe(instructions)
  })

  test('none', async () => {
    expect(await prompt('none')).toBe('Write.\nDone.\n\nAgain.\n')
  })
})

test('an answer line goes out without our own keys and comes back with them', async () => {
  const questions = await load(lines)
  const line = {
    ...{ question_id: 82, answer_id: 'x', model_id: 'm' },
    ...{ choices: [{ index: 0, turns: ['a', 'b'] }], tstamp: 1 },
  }
  const sample = answeredSample(line, questions)
  expect(sample).toMatchObject({ index: 1, source: questions[1]!.source })
  expect(answerLine(sample)).toEqual(line)
  const unknown = await failure(() => answeredSample({ ...line, question_id: 7 }, questions))
  expect(unknown.code).toBe('INVALID_DATA')
})

test.skipIf(!realData)(
  'the real questions: eighty of two turns, ten a category (skipped without data)',
  async () => {
    const questions = await loadMtBench(`${realData}/mt_bench/question.jsonl`)
    expect(questions).toHaveLength(80)
    const count = new Map<string, number>()
    for (const { category, turns } of questions) {
      expect(turns).toHaveLength(2)
      count.set(category, (count.get(category) ?? 0) + 1)
    }
    expect([...count.values()]).toEqual(Array(8).fill(10))
    expect(new Set(questions.map(temperatureOf))).toEqual(new Set([0.7, 0, 0.1]))
  },
)
