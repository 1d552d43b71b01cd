// s2ft eval as users run it: several files, resume, MMLU, MT-Bench answers; compare and overlap.
import { once } from 'node:events'
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { meanInterval } from '../../lib/eval/interval.js'
import { temporaryDirectory } from '../support/directories.js'
import { expectError, jsonLines, s2ft, start, tinyModel } from './support.js'

const work = temporaryDirectory()
const path = (name: string) => join(work, name)
const jsonl = (name: string, rows: unknown[]) => {
  writeFileSync(path(name), rows.map((row) => `${JSON.stringify(row)}\n`).join(''))
  return path(name)
}
const lines = (file: string) =>
  readFileSync(file, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))

const numbers = Array.from({ length: 20 }, (_, i) => i)
const math = jsonl(
  'sums-test.jsonl',
  numbers.map((i) => ({ question: `How much is ${i} and ${i}?`, answer: `${2 * i}` })),
)
const homes = jsonl(
  'homes-test.jsonl',
  numbers.map((i) => ({
    instruction: `Where is ${i}?\n\nAnswer format: answer1/answer2`,
    output: `the correct answer is answer${1 + (i % 2)}`,
    answer: `answer${1 + (i % 2)}`,
  })),
)
const truths = jsonl(
  'truths-test.jsonl',
  numbers.slice(0, 6).map((i) => ({
    instruction: `Is ${i} even?\n\nAnswer format: true/false`,
    output: `the correct answer is ${i % 2 === 0}`,
    answer: `${i % 2 === 0}`,
  })),
)
const subjects = numbers.map((i) => ({
  subject: i < 9 ? 'homes' : 'towns',
  question: `Where is ${i}?`,
  choices: ['here', 'there', 'far', `at ${i}`],
  answer: `${i % 4}`,
}))
const mmlu = jsonl('mmlu.jsonl', subjects)
const dev = jsonl('dev.jsonl', [...subjects].reverse())
const questions = jsonl('question.jsonl', [
  { question_id: 1, category: 'writing', turns: ['Who lives here?', 'And there?'] },
  { question_id: 2, category: 'math', turns: ['How much?', 'And more?'] },
  { question_id: 3, category: 'stem', turns: ['What is it?', 'And that?'] },
  { question_id: 4, category: 'writing', turns: ['Who is Anna?', 'Where is she?'] },
  { question_id: 5, category: 'roleplay', turns: ['Be Anna.', 'Be Ben.'] },
])

const evaluate = (...args: string[]) => s2ft(['eval', '--model', tinyModel, '--json', ...args])
const result = (...args: string[]) => jsonLines(evaluate(...args)).at(-1)!

describe('--resume', () => {
  const few = ['--batch-size', '2']
  const tasks: [string, string[]][] = [
    ['loss', ['--data', math, '--task', 'loss', ...few]],
    ['choice', ['--data', homes, truths, '--task', 'choice', ...few]],
    ['generated choice', ['--data', truths, '--task', 'choice', '--scoring', 'generate', ...few]],
    ['math', ['--data', math, '--task', 'math', '--max-new-tokens', '6', '--batch-size', '1']],
    ['mmlu', ['--data', mmlu, '--task', 'mmlu', '--shots', '1', '--dev', dev, ...few]],
  ]
  const comparable = ({ seconds: _, ...rest }: Record<string, unknown>) => rest

  test.each(tasks)(
    '%s ends as an unbroken evaluation does, wherever it broke off',
    (name, args) => {
      const file = path(`${name}-samples.jsonl`)
      const whole = result(...args, '--output', file)
      const bytes = readFileSync(file)
      for (const share of [0, 0.3, 0.77, 1]) {
        writeFileSync(file, bytes.subarray(0, Math.floor(share * bytes.length)))
        const again = result(...args, '--output', file, '--resume')
        expect(comparable(again), `from ${share}`).toEqual(comparable(whole))
        expect(readFileSync(file).equals(bytes), `from ${share}`).toBe(true)
      }
    },
  )

  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)(
    '%s ends with status %i, and what was done is not done again',
    async (signal, wanted) => {
      const file = path(`broken-${signal}.jsonl`)
      const args = ['--data', math, '--task', 'math', '--batch-size', '1', '--max-new-tokens', '40']
      const command = ['eval', '--model', tinyModel, '--json', ...args, '--output', file]
      const child = start(command)
      let out = ''
      child.stdout.on('data', (chunk) => {
        out += chunk
      })
      const watch = setInterval(() => {
        if (!existsSync(file) || statSync(file).size === 0) return
        clearInterval(watch)
        child.kill(signal)
      }, 5)
      const [status] = await once(child, 'close')
      expect(status).toBe(wanted)
      expect(JSON.parse(out)).toEqual({ type: 'interrupted', output: file })
      const before = readFileSync(file)
      const done = lines(file).length
      expect(done).toBeGreaterThanOrEqual(8)
      expect(done).toBeLessThan(20)
      result(...args, '--output', file, '--resume')
      expect(readFileSync(file).subarray(0, before.length).equals(before)).toBe(true)
      const unbroken = path('unbroken.jsonl')
      result(...args, '--output', unbroken, '--overwrite')
      expect(readFileSync(file, 'utf8')).toBe(readFileSync(unbroken, 'utf8'))
    },
  )

  test('results are replaced only where that is asked for', () => {
    const file = path('kept.jsonl')
    const args = ['--data', homes, '--task', 'choice', '--output', file]
    result(...args)
    const before = readFileSync(file)
    expectError(evaluate(...args), 'IO', /kept\.jsonl holds results already.*--overwrite/)
    expect(readFileSync(file).equals(before)).toBe(true)
    result(...args, '--overwrite', '--limit', '1')
    expect(lines(file)).toHaveLength(1)
  })

  test('begins where there is nothing yet; continues with the same settings only', () => {
    const file = path('same.jsonl')
    const args = ['--data', homes, '--task', 'choice', '--output', file]
    result(...args, '--resume')
    const refused = (...more: string[]) => evaluate(...args, '--resume', ...more)
    expectError(refused('--batch-size', '4'), 'INVALID_ARGUMENT', /batchSize 8, found 4/)
    expectError(refused('--template', 'none'), 'INVALID_ARGUMENT', /template "auto", found "none"/)
    expectError(refused('--dtype', 'f32'), 'INVALID_ARGUMENT', /dtype "bf16", found "f32"/)
    const bytes = readFileSync(file)
    writeFileSync(file, `{"data":1}\nnonsense\n`)
    expectError(refused(), 'INVALID_DATA', /same\.jsonl:2: expected a JSON object/)
    writeFileSync(file, bytes)
    const before = readFileSync(homes)
    writeFileSync(homes, Buffer.concat([before, before.subarray(0, before.indexOf(10) + 1)]))
    expectError(refused(), 'INVALID_ARGUMENT', /made with data/)
    writeFileSync(homes, before)
    rmSync(`${file}.run.json`)
    expectError(refused(), 'IO', /settings in .*same\.jsonl\.run\.json/)
  })
})

test('several files: a result each, then their mean', () => {
  const both = ['--task', 'choice', '--data', homes]
  const events = jsonLines(evaluate(...both, '--data', truths))
  expect(events.map(({ type, name }) => [type, name])).toEqual([
    ['task', 'homes'],
    ['task', 'truths'],
    ['result', undefined],
  ])
  const alone = [homes, truths].map((file) => result('--task', 'choice', '--data', file))
  const parts = alone.map(({ accuracy, interval }) => ({
    value: accuracy as number,
    interval: interval as [number, number],
  }))
  const mean = meanInterval(parts)
  expect(events[2]).toMatchObject({ accuracy: mean.value, interval: mean.interval, count: 26 })
  expect(events[0]).toMatchObject({ accuracy: alone[0]!.accuracy, count: 20 })
  expect(jsonLines(evaluate(...both, truths)).at(-1)!.accuracy).toBe(mean.value)
  const text = s2ft(['eval', '--model', tinyModel, ...both, truths]).stdout
  expect(text).toMatch(/^task .*\n-.*\nhomes .* of 20\ntruths .* of 6\nmean .*%/)
})

describe('mmlu', () => {
  test('ends with the accuracy over all, by subject, and their mean', () => {
    const found = result('--data', mmlu, '--task', 'mmlu', '--template', 'none')
    expect(found).toMatchObject({ task: 'mmlu', shots: 0, count: 20, shortened: 0 })
    const bySubject = found.subjects as { subject: string; accuracy: number; count: number }[]
    expect(bySubject.map(({ subject, count }) => [subject, count])).toEqual([
      ['homes', 9],
      ['towns', 11],
    ])
    const mean = (bySubject[0]!.accuracy + bySubject[1]!.accuracy) / 2
    expect(found.subjectMean).toBeCloseTo(mean, 12)
  })
})

describe('mt-bench', () => {
  const file = path('answers.jsonl')
  const args = ['--data', questions, '--task', 'mt-bench', '--max-new-tokens', '12']
  const full = [...args, '--batch-size', '2', '--output', file, '--model-id', 'tiny-s2ft']
  const answers = () => lines(file).map(({ tstamp: _, ...answer }) => answer)

  test("writes FastChat's answer lines; a resumed evaluation the same answers", () => {
    const before = Date.now() / 1000
    const found = result(...full)
    expect(found).toMatchObject({ task: 'mt-bench', modelId: 'tiny-s2ft', count: 5 })
    expect(found.categories).toEqual({ writing: 2, math: 1, stem: 1, roleplay: 1 })
    const written = lines(file)
    expect(written.map(({ question_id }) => question_id)).toEqual([1, 2, 3, 4, 5])
    for (const line of written) {
      expect(Object.keys(line)).toEqual([
        'question_id',
        'answer_id',
        'model_id',
        'choices',
        'tstamp',
      ])
      expect(line).toMatchObject({ model_id: 'tiny-s2ft', choices: [{ index: 0 }] })
      expect(line.answer_id).toMatch(/^[0-9a-f]{22}$/)
      expect(line.choices[0].turns).toHaveLength(2)
      for (const turn of line.choices[0].turns) expect(turn).toBe(turn.trim())
      expect(line.tstamp).toBeGreaterThan(before)
    }
    const texts = written.map(({ choices }) => choices[0].turns.join('|'))
    expect(texts.some((text) => text.length > 5)).toBe(true)
    const whole = answers()
    const bytes = readFileSync(file)
    writeFileSync(file, bytes.subarray(0, Math.floor(0.7 * bytes.length)))
    result(...full, '--resume')
    expect(answers()).toEqual(whole)
  })

  test('another seed changes sampled categories, not greedy ones', () => {
    result(...full, '--overwrite')
    const first = answers()
    result(...full, '--overwrite', '--seed', '7')
    const other = answers()
    const turns = (list: Record<string, unknown>[], id: number) =>
      list.find((answer) => answer.question_id === id)!.choices
    expect(turns(other, 2)).toEqual(turns(first, 2))
    const sampled = [1, 4, 5].map((id) => [turns(first, id), turns(other, id)])
    expect(sampled.some(([one, two]) => JSON.stringify(one) !== JSON.stringify(two))).toBe(true)
  })
})

describe('wrong calls', () => {
  const cases: [string, string[], RegExp][] = [
    ['shots without dev', ['--data', mmlu, '--task', 'mmlu', '--shots', '2'], /needs '--dev'/],
    ['dev without shots', ['--data', mmlu, '--task', 'mmlu', '--dev', dev], /needs '--shots'/],
    ['shots of another task', ['--data', math, '--shots', '2'], /for --task mmlu/],
    ['seed of another task', ['--data', math, '--seed', '2'], /for --task mt-bench/],
    ['resume without output', ['--data', math, '--resume'], /'--resume' needs '--output'/],
    [
      'replacing and resuming',
      ['--data', math, '--output', 'x', '--resume', '--overwrite'],
      /exclude each other/,
    ],
    ['overwrite without output', ['--data', math, '--overwrite'], /'--overwrite' needs '--output'/],
    ['answers without a file', ['--data', questions, '--task', 'mt-bench'], /needs '--output'/],
    ['output into the data', ['--data', math, '--output', math], /would be overwritten/],
    ['a file twice', ['--data', math, math], /sums-test\.jsonl is given twice/],
  ]
  test.each(cases)('%s', (_, args, message) => {
    expectError(evaluate(...args), 'USAGE', message)
  })
})

describe('compare', () => {
  const sample = (data: string, index: number, correct: boolean) => ({
    ...{ data, index, source: `${data}[${index}]`, correct, expected: 'A' },
  })
  const write = (name: string, data: string, right: number[], count = 10) =>
    jsonl(
      name,
      Array.from({ length: count }, (_, i) => sample(data, i, right.includes(i))),
    )

  test('counts the answers that one side alone has right', () => {
    const a = write('a.jsonl', 'x/homes-test.json', [0, 1, 2, 3])
    const b = write('b.jsonl', 'y/homes-test.json', [2, 3, 4, 5, 6, 7, 8])
    const [task, total] = jsonLines(s2ft(['compare', a, b, '--json']))
    expect(task).toMatchObject({
      ...{ task: 'homes', measure: 'accuracy', count: 10, a: 0.4, b: 0.7 },
      ...{ both: 2, onlyA: 2, onlyB: 5, neither: 1 },
    })
    expect(task!.difference).toBeCloseTo(0.3, 12)
    expect(task!.p).toBeCloseTo((2 * (1 + 7 + 21)) / 128, 12)
    expect(total).toMatchObject({ type: 'result', tasks: 1, count: 10, unpaired: [] })
    expect(s2ft(['compare', a, b]).stdout).toMatch(/homes\s+40\.0\s+70\.0\s+\+30\.0 .*\(5 : 2\)/)
  })

  test('takes real evaluations, of accuracy and of loss', () => {
    const run = (name: string, task: string, template: string) => {
      const file = path(name)
      const data = task === 'loss' ? [math] : [homes, truths]
      result('--data', ...data, '--task', task, '--template', template, '--output', file)
      return file
    }
    for (const task of ['choice', 'loss']) {
      const files = [run(`${task}-a`, task, 'alpaca'), run(`${task}-b`, task, 'none')]
      const events = jsonLines(s2ft(['compare', ...files, '--json']))
      expect(events.map(({ type }) => type)).toEqual(
        task === 'loss' ? ['task', 'result'] : ['task', 'task', 'result'],
      )
      for (const { a, b, difference, interval } of events.slice(0, -1)) {
        expect(difference).toBeCloseTo((b as number) - (a as number), 9)
        const [low, high] = interval as [number, number]
        expect(low).toBeLessThanOrEqual(difference as number)
        expect(high).toBeGreaterThanOrEqual(difference as number)
      }
    }
  })

  test('refuses what cannot be paired', () => {
    const a = write('a.jsonl', 'homes.json', [0])
    const fewer = write('fewer.jsonl', 'homes.json', [0], 9)
    const other = write('other.jsonl', 'towns.json', [0])
    const run = (b: string) => s2ft(['compare', a, b])
    expectError(run(fewer), 'INVALID_DATA', /a\.jsonl has sample 9, .*fewer\.jsonl has not/)
    expectError(run(other), 'INVALID_DATA', /expected a common task, found homes and towns/)
    expectError(run(questions), 'INVALID_DATA', /question\.jsonl:1: expected a sample/)
    const gold = jsonl(
      'gold.jsonl',
      lines(a).map((line) => ({ ...line, expected: 'B' })),
    )
    expectError(run(gold), 'INVALID_DATA', /sample 0: .*found expected "A" in .* and "B"/)
  })
})

test('data overlap counts shared questions and shows some', () => {
  const train = jsonl('train.jsonl', [
    { question: 'How much is 3 and 3?', answer: '6' },
    { question: 'How much is 4, and 4 again?', answer: '8' },
  ])
  const events = jsonLines(s2ft(['data', 'overlap', train, math, homes, '--json', '--show', '1']))
  expect(events.map(({ type }) => type)).toEqual(['match', 'overlap', 'overlap', 'result'])
  expect(events[0]).toMatchObject({ exact: true, similarity: 1 })
  expect(events[1]).toMatchObject({ rows: 20, exact: 1, near: 1 })
  expect(events.at(-1)).toMatchObject({ trainRows: 2, rows: 40, exact: 1, near: 1 })
  const strict = ['data', 'overlap', train, math, '--json', '--show', '0', '--threshold', '0.9']
  expect(jsonLines(s2ft(strict))[0]).toMatchObject({ exact: 1, near: 0 })
  expectError(s2ft(['data']), 'USAGE', /expected a subcommand: see s2ft data --help/)
})
