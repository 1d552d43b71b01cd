import { describe, expect, it } from 'vitest'
import { loadDataset, parseRow, splitDataset } from '../../lib/data/index.js'
import {
  dataFile,
  failure,
  jsonl,
  numbers,
  randomText,
  realData,
  temporaryDirectory,
} from './support.js'

const turns = [
  { role: 'user', content: 'hi' },
  { role: 'assistant', content: 'yo' },
]

describe('shapes', () => {
  it.each([
    [{ messages: turns }, { kind: 'messages', messages: turns, trainFrom: 0 }],
    [
      { prompt: 'p', completion: 'c' },
      { kind: 'prompt', prompt: 'p', completion: 'c' },
    ],
    [
      { prompt: turns.slice(0, 1), completion: turns.slice(1) },
      { kind: 'messages', messages: turns, trainFrom: 1 },
    ],
    [
      { instruction: 'i', input: '', output: 'the answer is 4', answer: '4.0' },
      {
        kind: 'instruction',
        instruction: 'i',
        input: '',
        output: 'the answer is 4',
        answer: '4.0',
      },
    ],
    [
      { instruction: 'i', output: 'o' },
      { kind: 'instruction', input: '', output: 'o' },
    ],
    [
      { question: 'q', answer: 'a' },
      { kind: 'question', question: 'q', answer: 'a' },
    ],
    [
      { question: 'q', answer: 7 },
      { kind: 'question', answer: '7' },
    ],
    [
      { question: 'q', choices: ['x', 'y'], answer: '1' },
      { kind: 'choice', answer: 1 },
    ],
    [
      { question: 'q', choices: ['x', 'y'], answer: 'b' },
      { kind: 'choice', answer: 1 },
    ],
    [
      { question: 'q', choices: ['xx', 'yy'], answer: 'yy' },
      { kind: 'choice', answer: 1 },
    ],
    [
      { text: 't', other: 1 },
      { kind: 'text', text: 't', document: false },
    ],
  ])('%j', (row, expected) => {
    expect(parseRow(row, 'f:1')).toMatchObject({ ...expected, source: 'f:1' })
  })

  it.each([
    [{ instruction: 'i', output: 3 }, 'output of a', 'expected string', 'number 3'],
    [{ instruction: 'i' }, 'output', 'expected string', 'nothing'],
    [{ messages: [] }, 'messages', '', 'an array of 0'],
    [{ messages: [{ role: 'user', content: 5 }] }, 'messages[0].content', '', 'number 5'],
    [{ messages: [{ content: 'x' }] }, 'messages[0].role', 'expected string', 'nothing'],
    [{ prompt: 'p', completion: turns }, 'completion', '', 'an array of 2'],
    [{ question: 'q', choices: ['x', 'y'], answer: '2' }, 'answer', '0..1', '"2"'],
    [{ question: 'q', answer: null }, 'answer', '', 'null'],
    [{ text: ['x'] }, 'text', 'expected string', 'an array of 1'],
    [{ foo: 1 }, 'expected an object with', 'messages', 'the keys foo'],
    ['text', 'expected an object', '', 'string "text"'],
    [null, 'expected an object', '', 'null'],
  ])('says what is wrong with %j', (row, ...parts) => {
    const problem = parseRow(row, 'f:1')
    expect(problem).toBeTypeOf('string')
    for (const part of parts) expect(problem).toContain(part)
  })
})

describe('formats, told by the content', () => {
  const rows = [
    { question: 'q1', answer: 'a1' },
    { text: 'line\u2028separator' },
    { prompt: 'p', completion: 'c' },
  ]
  it.each([
    ['rows.jsonl', jsonl(rows)],
    ['rows.json', jsonl(rows)],
    ['rows.txt', jsonl(rows)],
    ['rows', `\uFEFF${jsonl(rows)}`],
    ['rows.jsonl', rows.map((row) => `\r\n  ${JSON.stringify(row)}\r\n\r\n`).join('')],
    ['rows.jsonl', jsonl(rows).trimEnd()],
    ['rows.json', JSON.stringify(rows, null, 2)],
    ['rows.jsonl', `\uFEFF\n\n${JSON.stringify(rows)}`],
  ])('%s', async (name, content) => {
    const { rows: read } = await loadDataset(dataFile(name, content))
    expect(read.map((row) => row.kind)).toEqual(['question', 'text', 'prompt'])
    expect(read[1]).toMatchObject({ text: 'line\u2028separator' })
  })

  it('names lines and indices', async () => {
    const lines = dataFile('a.jsonl', `\n${jsonl(rows)}`)
    const array = dataFile('b.json', JSON.stringify(rows))
    const dataset = await loadDataset([lines, array])
    expect(dataset.rows.map((row) => row.source)).toEqual([
      ...[2, 3, 4].map((line) => `${lines}:${line}`),
      ...[0, 1, 2].map((index) => `${array}[${index}]`),
    ])
    expect(dataset.read).toBe(6)
  })

  it('takes a text file as one document, a single object as one row', async () => {
    const text = '[Scene] one\n{two}\n'
    const dataset = await loadDataset(dataFile('play.txt', text))
    expect(dataset.rows).toMatchObject([{ kind: 'text', text, document: true }])
    const object = dataFile('one.json', '{\n  "text": "x"\n}')
    expect((await loadDataset(object)).rows).toMatchObject([{ kind: 'text', text: 'x' }])
  })

  it.each([1, 2, 3])('lines of any length survive, random input %i', async (seed) => {
    const next = numbers(seed)
    const texts = Array.from({ length: 30 }, () => randomText(next, 1 + next(4000)))
    texts.push('é'.repeat(1 << 20)) // Characters that lie across the boundary of two chunks.
    const path = dataFile('long.jsonl', `\uFEFF${jsonl(texts.map((text) => ({ text })))}`)
    const { rows: read } = await loadDataset(path)
    expect(read.map((row) => (row.kind === 'text' ? row.text : ''))).toEqual(texts)
  })
})

describe('bad files', () => {
  it.each([
    ['', 'empty'],
    ['\n \n', 'empty'],
    ['[]', 'empty array'],
    ['[{"text": "x"}', 'expected JSON'],
    ['not json', 'found "not json"'],
    [Buffer.from([0x7b, 0xff, 0xfe]), 'expected UTF-8'],
  ])('%j', async (content, part) => {
    const path = dataFile('rows.jsonl', content)
    const error = await failure(() => loadDataset(path))
    expect(error.code).toBe('INVALID_DATA')
    expect(error.message).toContain(path)
    expect(error.message).toContain(part)
  })

  it('names file and line of a broken row, or counts it', async () => {
    const good = JSON.stringify({ text: 'x' })
    const path = dataFile('rows.jsonl', `${good}\n{"text": \n{"no": 1}\n${good}\n{"no": 2}\n`)
    const error = await failure(() => loadDataset(path))
    expect(error.message).toMatch(`${path}:2: expected one JSON object`)
    const dataset = await loadDataset(path, { onBadRow: 'skip' })
    expect(dataset.rows).toHaveLength(2)
    expect(dataset.read).toBe(5)
    expect(dataset.dropped).toEqual([
      { reason: 'not JSON', count: 1, first: `${path}:2` },
      { reason: 'broken row', count: 2, first: `${path}:3` },
    ])
  })

  it('fails when every row is broken', async () => {
    const path = dataFile('rows.jsonl', '{"no": 1}\n')
    const error = await failure(() => loadDataset(path, { onBadRow: 'skip' }))
    expect(error.code).toBe('INVALID_DATA')
    expect(error.message).toContain(`${path}:1`)
  })

  it('fails for a missing file and for a directory', async () => {
    for (const path of ['/nowhere/at/all.jsonl', temporaryDirectory()]) {
      const error = await failure(() => loadDataset(path))
      expect(error.code).toBe('IO')
      expect(error.message).toContain(path)
    }
  })
})

describe('limit and split', () => {
  const texts = Array.from({ length: 50 }, (_, i) => ({ text: `t${i}` }))
  const textsOf = (rows: { kind: string }[]) => rows.map((row) => (row as { text?: string }).text)

  it('stops at the limit, before a later broken line', async () => {
    const path = dataFile('rows.jsonl', `${jsonl(texts)}broken\n`)
    const dataset = await loadDataset(path, { limit: 50 })
    expect(dataset.rows).toHaveLength(50)
    for (const limit of [0, -1, 1.5, Number.NaN]) {
      expect((await failure(() => loadDataset(path, { limit }))).code).toBe('INVALID_ARGUMENT')
    }
  })

  it('splits reproducibly, without loss and without overlap', async () => {
    const path = dataFile('rows.jsonl', jsonl(texts))
    const load = (part: 'train' | 'eval', seed: number) =>
      loadDataset(path, { split: { part, evalSize: 0.2, seed } })
    const [train, held, again, other] = await Promise.all([
      load('train', 1),
      load('eval', 1),
      load('eval', 1),
      load('eval', 2),
    ])
    expect(held.rows).toHaveLength(10)
    expect(again.rows).toEqual(held.rows)
    expect(other.rows).not.toEqual(held.rows)
    const all = [...textsOf(train.rows), ...textsOf(held.rows)]
    expect(all.sort()).toEqual(texts.map((row) => row.text).sort())
  })

  it('counts rows from 1 on, and refuses an empty part', async () => {
    const dataset = await loadDataset(dataFile('rows.jsonl', jsonl(texts)))
    expect(splitDataset(dataset, 7).eval.rows).toHaveLength(7)
    expect((await failure(() => splitDataset(dataset, 50))).code).toBe('INVALID_DATA')
  })
})

it.skipIf(!realData)('the real data sets load (skipped without them)', async () => {
  const expected: [string, string, number][] = [
    ['math/gsm8k-train.jsonl', 'question', 7473],
    ['commonsense/boolq-test.json', 'instruction', 3270],
    ['mmlu/dev.jsonl', 'choice', 285],
    ['math/mawps-test.json', 'instruction', 238],
  ]
  for (const [name, kind, count] of expected) {
    const { rows } = await loadDataset(`${realData}/${name}`)
    expect(rows).toHaveLength(count)
    expect(new Set(rows.map((row) => row.kind))).toEqual(new Set([kind]))
  }
})
