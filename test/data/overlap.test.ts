import { describe, expect, it } from 'vitest'
import { loadDataset, normalisedQuestion, parseRow, QuestionIndex } from '../../lib/data/index.js'
import { dataFile, jsonl, realData } from './support.js'

function row(value: unknown, source = 'f:1') {
  const parsed = parseRow(value, source)
  if (typeof parsed === 'string') throw new Error(parsed)
  return parsed
}

const question = (text: string) => row({ question: text, answer: '1' })

async function indexOf(...texts: string[]) {
  const rows = texts.map((text) => ({ question: text, answer: '1' }))
  return new QuestionIndex(await loadDataset(dataFile('train.jsonl', jsonl(rows))))
}

const apples = 'Tom has 3 bags of 4 apples each. He eats 2 of them. How many apples are left?'

describe('overlap', () => {
  it('finds the same words whatever lies between them', async () => {
    const index = await indexOf('Something else?', apples)
    const match = index.find(
      question(apples.toUpperCase().replaceAll(' ', '\n ').replace('.', '!')),
    )
    expect(match).toMatchObject({ exact: true, similarity: 1 })
    expect(match!.other).toMatch(/train\.jsonl:2$/)
  })

  it('finds a question with a few other words, and tells how similar it is', async () => {
    const index = await indexOf(apples)
    const match = index.find(question(apples.replace('Tom', 'Ann')))
    // Every word but the last two begins a shingle; only the first shingle holds the name.
    const words = apples.replace(/[^\w ]/g, '').split(' ').length
    const shingles = words - 2
    expect(match).toMatchObject({ exact: false })
    expect(match!.similarity).toBeCloseTo((shingles - 1) / (shingles + 1), 12)
    expect(index.find(question(apples.replace('Tom', 'Ann')), 0.99)).toBeUndefined()
  })

  it('does not find other questions', async () => {
    const index = await indexOf(apples)
    const other = 'Ann has 5 boxes with 6 pears. She sells 7. How many pears does she have?'
    expect(index.find(question(other))).toBeUndefined()
    expect(index.find(question('?!'))).toBeUndefined()
  })

  it('picks the most similar row', async () => {
    const index = await indexOf(apples.replace('left', 'gone').replace('Tom', 'Bob'), apples)
    const ann = apples.replace('Tom', 'Ann')
    expect(index.find(question(ann.replace('left', 'gone')), 0.5)!.other).toMatch(/:1$/)
    expect(index.find(question(ann), 0.5)!.other).toMatch(/:2$/)
  })

  it('sees one question through the frames of two sets', () => {
    const arc = row({
      instruction:
        'Please choose the correct answer to the question: Which is wet?\n\nAnswer1: sand Answer2: the sea\n\nAnswer format: answer1/answer2',
      output: 'the correct answer is answer2',
      answer: 'answer2',
    })
    const mmlu = row({ question: 'Which is wet?', choices: ['sand', 'the sea'], answer: 1 })
    expect(normalisedQuestion(arc)).toBe('which is wet sand the sea')
    expect(normalisedQuestion(mmlu)).toBe(normalisedQuestion(arc))
  })
})

it.skipIf(!realData)(
  'MultiArith and mawps share questions, gsm8k keeps its parts apart (skipped without data)',
  async () => {
    const load = (name: string) => loadDataset(`${realData}/math/${name}`)
    const count = async (index: QuestionIndex, name: string) => {
      const { rows } = await load(name)
      return rows.filter((item) => index.find(item)?.exact).length
    }
    const multiArith = new QuestionIndex(await load('MultiArith-test.json'))
    expect(await count(multiArith, 'MultiArith-test.json')).toBe(600)
    expect(await count(multiArith, 'mawps-test.json')).toBe(49)
    const gsm8k = new QuestionIndex(await load('gsm8k-train.jsonl'))
    expect(await count(gsm8k, 'gsm8k-test.json')).toBe(0)
  },
)
