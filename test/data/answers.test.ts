import { describe, expect, it } from 'vitest'
import {
  choiceLabels,
  goldNumber,
  isMathCorrect,
  pickOption,
  readChoice,
  readNumber,
  readNumbers,
} from '../../lib/data/index.js'
import { numbers } from './support.js'

describe('readChoice', () => {
  it.each([
    ['the correct answer is true', undefined, 'true'],
    ['the correct answer is answer3. answer1 is wrong', undefined, 'answer3'],
    ['Solution2 because', undefined, 'solution2'],
    ['ending4', undefined, 'ending4'],
    ['option1/option2', undefined, 'option1'],
    ['answer9 option3 ending5 solution3', undefined, undefined],
    ['It is true that answer2 fits', ['answer1', 'answer2'], 'answer2'],
    ['FALSE', ['true', 'false'], 'false'],
    ['', undefined, undefined],
    ['The answer is (B).', ['A', 'B', 'C', 'D'], 'B'],
    ['A: first we add. The answer is C', ['A', 'B', 'C', 'D'], 'C'],
    ['B. because of A', ['A', 'B', 'C', 'D'], 'B'],
    ['D', ['A', 'B', 'C', 'D'], 'D'],
    ['A cat sat, so (C) fits', ['A', 'B', 'C', 'D'], 'C'],
    ['A cat sat, so it must be B', ['A', 'B', 'C', 'D'], 'B'],
    ['nothing here', ['A', 'B', 'C', 'D'], undefined],
  ])('%j of %j is %s', (text, labels, expected) => {
    expect(readChoice(text, labels)).toBe(expected)
  })
})

describe('readNumber', () => {
  it.each([
    ['The answer is 72.', 72],
    ['#### 1,234', 1234],
    ['costs $1,234,567.89.', 1234567.89],
    ['She has $12', 12],
    ['-15.0', -15],
    ['is −3', -3],
    ['it is -$5', -5],
    ['it is $-5.50', -5.5],
    ['20-5', 5],
    ['(3)-2', 2],
    ['5 - 3', 3],
    ['= .5', 0.5],
    ['50%', 50],
    ['1, 2, 3', 3],
    ['<<48/2=24>>24 clips.\n#### 24', 24],
    ['\\boxed{42}', 42],
    ['1e-05', 0.00001],
    ['no number', undefined],
    ['', undefined],
  ])('%j ends in %s', (text, expected) => {
    expect(readNumber(text)).toBe(expected)
  })

  it.each([1, 2, 3])('finds numbers however they are written, random input %i', (seed) => {
    const next = numbers(seed)
    for (let i = 0; i < 200; i++) {
      const value = (next(2_000_000) - 1_000_000) / [1, 10, 100][next(3)]!
      const plain = String(value)
      const grouped = value.toLocaleString('en-US', { maximumFractionDigits: 3 })
      const dollars = `${value < 0 ? '-' : ''}$${grouped.replace('-', '')}`
      for (const text of [plain, grouped, dollars]) {
        expect(readNumbers(`so 7 x 1 gives ${text}. `), text).toEqual([7, 1, value])
      }
    }
  })
})

describe('gold and comparison', () => {
  it('reads gold from #### and from plain answers', () => {
    expect(goldNumber('Half of 8 is 4.\n#### 4\n(5 left)')).toBe(4)
    expect(goldNumber('1.8333333333333335')).toBe(1.8333333333333335)
    expect(goldNumber('#### $2,000')).toBe(2000)
    expect(goldNumber('none')).toBeUndefined()
  })

  it('allows 0.001 and no more', () => {
    expect(isMathCorrect('1.8333', 1.8333333333333335)).toBe(true)
    expect(isMathCorrect('5.001', 5)).toBe(true)
    expect(isMathCorrect('5.0011', 5)).toBe(false)
    expect(isMathCorrect('none', 5)).toBe(false)
  })

  it('knows the labels of a question', () => {
    expect(choiceLabels('Q?\n\nAnswer format: answer1/answer2/answer3')).toEqual([
      'answer1',
      'answer2',
      'answer3',
    ])
    expect(choiceLabels('is it?', 'false')).toEqual(['true', 'false'])
    expect(choiceLabels('Ending1: a Ending2: b', 'ending2')).toEqual(['ending1', 'ending2'])
    expect(choiceLabels('Q?', '72')).toBeUndefined()
  })

  it('picks the most probable option, by sum or by mean', () => {
    expect(pickOption([-3, -1, -2])).toBe(1)
    expect(pickOption([-4, -3], [4, 1])).toBe(0)
    expect(pickOption([-1, -1])).toBe(0)
    expect(pickOption([])).toBe(-1)
    expect(pickOption([Number.NaN, -5])).toBe(1)
  })
})
