// `-c config.yaml`: the same settings as the flags, under the flags, checked line by line.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { readConfigFile } from '../../lib/cli/config-file.js'
import { trainSettings } from '../../lib/cli/train-settings.js'
import { temporaryDirectory } from '../support/directories.js'
import { expectError, s2ft } from './support.js'

function config(text: string): string {
  const path = join(temporaryDirectory(), 'config.yaml')
  writeFileSync(path, text)
  return path
}

const read = (text: string) => readConfigFile(config(text), trainSettings)

describe('values', () => {
  test('camelCase, kebab-case, maps, lists, exponents, switches', () => {
    const found = read(
      [
        'learningRate: 2e-4',
        'batch-size: 4',
        'ratios: { down: 0.03, o: 0.1 }',
        'targetModules: [q_proj, v_proj]',
        'shuffle: false',
        'resume: true',
        'memoryLimit: 8GB',
        'evalData: null',
      ].join('\n'),
    )
    expect(found).toEqual({
      learningRate: 2e-4,
      batchSize: 4,
      ratios: { down: 0.03, o: 0.1 },
      targetModules: ['q_proj', 'v_proj'],
      shuffle: false,
      resume: true,
      memoryLimit: 8e9,
    })
  })

  test('how units are chosen: names, weights, one directory or several', () => {
    const text = [
      'selection: weight-activation',
      'selection-order: smallest',
      'calibrationShare: 0.05',
      'allocation: [1, 2, 0.5]',
      'avoid: [out/math, "with, comma"]',
    ]
    expect(read(text.join('\n'))).toEqual({
      selection: 'weight-activation',
      selectionOrder: 'smallest',
      calibrationShare: 0.05,
      allocation: [1, 2, 0.5],
      avoid: ['out/math', 'with, comma'],
    })
    expect(read('allocation: one-random-layer\navoid: out')).toEqual({
      allocation: 'one-random-layer',
      avoid: ['out'],
    })
  })

  test('a ratio may be written as the flag writes it', () => {
    expect(read('ratios: down=0.03,o=0.1')).toEqual({ ratios: { down: 0.03, o: 0.1 } })
  })

  test('an empty file holds no settings', () => {
    expect(read('# nothing\n')).toEqual({})
  })
})

describe('complaints name file, line and key', () => {
  const cases: [string, string, RegExp][] = [
    ['misspelt', 'seed: 1\nlearningrat: 1', /:2: .*'learningrat', did you mean 'learningRate'/],
    ['kebab', 'learning-rat: 1', /:1: .*did you mean 'learning-rate'/],
    ['not near any', 'zzzzzzzz: 1', /:1: unknown setting 'zzzzzzzz'$/],
    ['twice', 'batchSize: 1\nbatch-size: 2', /:2: setting 'batch-size' is given twice/],
    ['bad number', 'batchSize: many', /:1: setting 'batchSize': expected a whole number/],
    ['boolean for a number', 'batchSize: true', /:1: setting 'batchSize': expected <n>/],
    ['number for a switch', 'shuffle: 3', /:1: setting 'shuffle': expected true or false/],
    ['map for a list', 'avoid: { a: b }', /:1: setting 'avoid': expected a list/],
    ['nested', 'ratios: { down: { a: 1 } }', /:1: setting 'ratios': expected a value/],
    ['a list', '- a\n- b', /:1: expected settings/],
    ['no YAML', 'a: [1\nb: 2', /:\d: /],
  ]
  test.each(cases)('%s', (_, text, message) => {
    expect(() => read(text)).toThrow(message)
    expect(() => read(text)).toThrow(expect.objectContaining({ code: 'INVALID_CONFIG' }))
  })
})

describe('with the command line', () => {
  test('an unknown key ends the command', () => {
    const path = config('model: m\nlearningrate_: 1\n')
    expectError(s2ft(['train', '-c', path]), 'INVALID_CONFIG', /config\.yaml:2: unknown setting/)
  })

  test('flags win over the file, and required settings may come from it', () => {
    const path = config('model: m\ndata: d\noutput: o\nmethod: sparse\nquantize: nf4\n')
    expectError(s2ft(['train', '-c', path]), 'USAGE', /--quantize.*found --method sparse/)
    const other = ['train', '-c', path, '--method', 'full']
    expectError(s2ft(other), 'USAGE', /--quantize.*found --method full/)
  })

  test('a missing file is an IO error', () => {
    expectError(s2ft(['train', '-c', '/nonexistent.yaml']), 'IO', /config file/)
  })
})
