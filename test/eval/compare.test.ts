// Results files: what may be compared, and what may be continued.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { compareResults } from '../../lib/eval/compare.js'
import { ResultsFile, settingsPath } from '../../lib/eval/results-file.js'
import { taskNames } from '../../lib/eval/task-names.js'
import { temporaryDirectory } from '../support/directories.js'

const work = temporaryDirectory()
const file = (name: string, lines: object[]) => {
  const path = join(work, name)
  writeFileSync(path, lines.map((line) => `${JSON.stringify(line)}\n`).join(''))
  return path
}
const answers = (data: string, correct: boolean[]) =>
  correct.map((right, index) => ({
    data,
    index,
    source: `${index}`,
    correct: right,
    expected: 'A',
  }))

describe('task names', () => {
  test.each([
    [
      ['math/gsm8k-test.json', 'math/AQuA.json'],
      ['gsm8k', 'AQuA'],
    ],
    [
      ['boolq/test.json', '/data/piqa/test.json'],
      ['boolq', 'piqa'],
    ],
    [['boolq/test.json'], ['boolq']],
    [['test.json'], ['test']],
    [['../test.json'], ['test']],
    [['latest.json'], ['latest']],
    [
      ['a/x.json', 'b/x.json'],
      ['a/x.json', 'b/x.json'],
    ],
  ])('%j: %j', (files, names) => {
    expect(taskNames(files)).toEqual(names)
  })
})

describe('comparison', () => {
  const one = file('one.jsonl', answers('boolq/test.json', [true, false]))

  test('finds a task that one side alone evaluated with others', () => {
    const both = file('both.jsonl', [
      ...answers('boolq/test.json', [true, true]),
      ...answers('piqa/test.json', [false]),
    ])
    const { tasks, unpaired } = compareResults(both, one)
    expect(tasks.map(({ task, difference }) => [task, difference])).toEqual([['boolq', -0.5]])
    expect(unpaired).toEqual(['piqa'])
  })

  test('refuses a sample that is there twice, and losses without their tokens', () => {
    const twice = file('twice.jsonl', [
      ...answers('boolq/test.json', [true, false]),
      ...answers('boolq/test.json', [true]),
    ])
    expect(() => compareResults(one, twice)).toThrow(/twice\.jsonl:3: sample 0 .* is there twice/)
    const loss = { data: 'boolq/test.json', index: 0, lossSum: 2 }
    for (const tokens of [undefined, 0, '3']) {
      const path = file('loss.jsonl', [{ ...loss, tokens }])
      expect(() => compareResults(path, path)).toThrow(/loss\.jsonl:1: expected a sample/)
    }
  })

  test('says that a file without samples has no task', () => {
    const empty = file('empty.jsonl', [])
    expect(() => compareResults(one, empty)).toThrow(/a common task, found boolq and none/)
  })
})

test('settings that are no object are told, not stumbled over', () => {
  const path = file('resumed.jsonl', [])
  for (const content of ['null', '3', '[]', '', '{']) {
    writeFileSync(settingsPath(path), content)
    const resume = () => ResultsFile.resume(path, { task: 'loss' })
    expect(resume).toThrow(expect.objectContaining({ code: 'IO' }))
    expect(resume).toThrow(/cannot be resumed: its settings in .*run\.json are not readable/)
  }
})
