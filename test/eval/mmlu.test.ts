// MMLU's prompts and figures, and options that share a pass, on the tiny model.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { encodeChoice, loadDataset, parseRow } from '../../lib/data/index.js'
import { evaluateMmlu, mmluText } from '../../lib/eval/mmlu.js'
import { scoreOptions } from '../../lib/eval/score-options.js'
import type { EvalSample } from '../../lib/eval/types.js'
import { Model } from '../../lib/index.js'
import { tinyModel } from '../cli/support.js'
import { dataFile, failure, jsonl, realData } from '../data/support.js'

let model: Model
beforeAll(async () => {
  model = await Model.load(tinyModel, { device: 'cpu' })
})
afterAll(() => model.dispose())

const question = (i: number, subject: string) => ({
  subject,
  question: `Where does number ${i} live?`,
  choices: ['here', 'there', 'nowhere', `in ${i}`],
  answer: `${i % 4}`,
})
const rows = [0, 1, 2, 3, 4].map((i) => question(i, i < 3 ? 'high_school_homes' : 'towns'))
const dev = [5, 6, 7, 8, 9, 10].map((i) => question(i, i < 8 ? 'high_school_homes' : 'towns'))
const load = (name: string, lines: unknown[]) => loadDataset(dataFile(name, jsonl(lines)))
const options = { template: 'none' as const, batchSize: 2, maxNewTokens: 1 }

function choice(value: unknown) {
  const row = parseRow(value, 'f:1')
  if (typeof row === 'string' || row.kind !== 'choice') throw new Error(String(row))
  return row
}

test('the prompt names the subject, solves the examples and stops before the letter', () => {
  expect(mmluText(choice(rows[0]), [choice(dev[0])])).toBe(
    'The following are multiple choice questions (with answers) about high school homes.\n\n' +
      'Where does number 5 live?\nA. here\nB. there\nC. nowhere\nD. in 5\nAnswer: B\n\n' +
      'Where does number 0 live?\nA. here\nB. there\nC. nowhere\nD. in 0\nAnswer:',
  )
})

test('accuracies by subject, over all and as their mean', async () => {
  const samples: EvalSample[] = []
  const result = await evaluateMmlu(model, await load('test.jsonl', rows), {
    ...options,
    onSample: (sample) => samples.push(sample),
  })
  expect(samples.map(({ index }) => index)).toEqual([0, 1, 2, 3, 4])
  const right = (list: EvalSample[]) => list.filter(({ correct }) => correct).length
  const [homes, towns] = [right(samples.slice(0, 3)), right(samples.slice(3))]
  expect(result).toMatchObject({ task: 'mmlu', shots: 0, count: 5, correct: homes + towns })
  expect(result.subjects).toMatchObject([
    { subject: 'high_school_homes', count: 3, correct: homes },
    { subject: 'towns', count: 2, correct: towns },
  ])
  expect(result.subjectMean).toBeCloseTo((homes / 3 + towns / 2) / 2, 12)
  for (const { answer, logProbs, expected, correct } of samples) {
    const values = logProbs as number[]
    expect(answer).toBe('ABCD'[values.indexOf(Math.max(...values))])
    expect(correct).toBe(answer === expected)
    for (const value of values) expect(value).toBeLessThan(0)
  }
})

test('examples are the first of the subject; they are given up from the last on', async () => {
  const given: number[] = []
  const evaluate = async (maxLength: number | undefined) => {
    given.length = 0
    return evaluateMmlu(model, await load('test.jsonl', rows.slice(0, 2)), {
      ...options,
      ...{ shots: 2, dev: await load('dev.jsonl', dev) },
      ...(maxLength && { maxLength }),
      onSample: (sample) => given.push(sample.shots as number),
    })
  }
  const tokenizer = await model.tokenizer()
  const length = (k: number) => {
    const text = mmluText(choice(rows[0]), dev.slice(0, k).map(choice))
    return tokenizer.encode(`${text} A`).length
  }
  expect((await evaluate(length(2) + 4)).shortened).toBe(0)
  expect(given).toEqual([2, 2])
  expect((await evaluate(length(1) + 4)).shortened).toBe(2)
  expect(given).toEqual([1, 1])
})

test('too few examples, no dev set, rows of another kind', async () => {
  const dataset = await load('test.jsonl', rows)
  const short = { ...options, shots: 4, dev: await load('dev.jsonl', dev) }
  const few = await failure(() => evaluateMmlu(model, dataset, short))
  expect(few).toMatchObject({ code: 'INVALID_DATA' })
  expect(few.message).toMatch(/test\.jsonl:1: expected 4 examples .*high_school_homes.* found 3/)
  const none = await failure(() => evaluateMmlu(model, dataset, { ...options, shots: 1 }))
  expect(none.code).toBe('INVALID_ARGUMENT')
  const other = await load('other.jsonl', [{ question: 'q', answer: '#### 1' }])
  const kind = await failure(() => evaluateMmlu(model, other, options))
  expect(kind.message).toMatch(/other\.jsonl:1: task "mmlu" expected subject/)
})

describe('options that share a pass', () => {
  const labels = 'Answer format: answer1/answer2/answer3'
  const cases: [string, unknown, boolean][] = [
    ['letters', rows[1], true],
    [
      'labels',
      {
        instruction: `Which?\n\n${labels}`,
        output: 'the correct answer is answer2',
        answer: 'answer2',
      },
      true,
    ],
    [
      'words',
      {
        instruction: 'Is it?\n\nAnswer format: true/false',
        output: 'the correct answer is false',
        answer: 'false',
      },
      false,
    ],
  ]
  test.each(cases)('%s score as they do one by one', async (_, value) => {
    const row = parseRow(value, 'f:1')
    if (typeof row === 'string') throw new Error(row)
    const encoded = encodeChoice(row, await model.tokenizer())
    const [scores] = await scoreOptions(model, [encoded])
    for (const [i, option] of encoded.options.entries()) {
      const [alone] = await model.scoreBatch([option])
      const sum = alone!.reduce((total, x) => total + x, 0)
      expect(scores![i]).toBeCloseTo(sum, 4)
    }
  })

  test('the cases are of both kinds', async () => {
    const tokenizer = await model.tokenizer()
    for (const [, value, shared] of cases) {
      const row = parseRow(value, 'f:1')
      if (typeof row === 'string') throw new Error(row)
      const { options: sequences } = encodeChoice(row, tokenizer)
      const heads = sequences.map(({ tokens }) => tokens.subarray(0, -1).join())
      expect(new Set(heads).size === 1).toBe(shared)
    }
  })

  test('candidates are checked', async () => {
    const wrong = await failure(() => model.scoreBatch([{ tokens: [1, 2] }], [[1], [2]]))
    expect(wrong.message).toMatch(/candidates: expected 1 lists/)
    const unknown = await failure(() => model.scoreBatch([{ tokens: [1, 2] }], [[640]]))
    expect(unknown.message).toMatch(/candidates\[0\]\[0\]: expected a token id in \[0, 640\)/)
  })
})

test.skipIf(!realData)(
  'every subject of the real test set has five examples (skipped without data)',
  async () => {
    const test = await loadDataset(`${realData}/mmlu/test.jsonl`)
    const examples = await loadDataset(`${realData}/mmlu/dev.jsonl`)
    const subjects = new Set(test.rows.map((row) => row.kind === 'choice' && row.subject))
    expect(subjects.size).toBe(57)
    for (const subject of subjects) {
      const of = examples.rows.filter((row) => row.kind === 'choice' && row.subject === subject)
      expect(of).toHaveLength(5)
    }
  },
)
