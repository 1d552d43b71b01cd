// Wrong calls, help and refusals: nothing here needs the native addon.
import { describe, expect, test } from 'vitest'
import { expectError, s2ft } from './support.js'

const commands = [
  ['train'],
  ['eval'],
  ['compare'],
  ['generate'],
  ['merge'],
  ['export'],
  ['serve'],
  ['inspect'],
  ['bench', 'train'],
  ['bench', 'real'],
  ['bench', 'ops'],
  ['bench', 'memory'],
  ['bench', 'growth'],
  ['bench', 'report'],
  ['bench', 'all'],
  ['bench', 'study'],
  ['bench', 'serve'],
  ['data', 'overlap'],
  ['devices'],
]

describe('help and version', () => {
  test.each(commands.map((c) => [c]))('s2ft %j --help explains the common options', (command) => {
    const { status, stdout, stderr } = s2ft([...command, '--help'])
    expect(status).toBe(0)
    expect(stderr).toBe('')
    for (const option of ['--json', '--device', '--dtype', '--threads', '--version']) {
      expect(stdout).toContain(option)
    }
  })

  test('the top level lists every command', () => {
    const { status, stdout } = s2ft(['--help'])
    expect(status).toBe(0)
    for (const [name] of commands) expect(stdout).toMatch(new RegExp(`^  ${name}\\b`, 'm'))
  })

  test.each([[[]], [['train']], [['bench']], [['bench', 'train']]])('%j --version', (command) => {
    const { status, stdout } = s2ft([...command, '--version'])
    expect(status).toBe(0)
    expect(stdout).toMatch(/^\d+\.\d+\.\d+\n$/)
  })
})

describe('wrong calls end with status 2 and one line', () => {
  const train = ['train', '--model', 'm', '--data', 'd', '--output', 'o']
  const exporting = ['export', '--model', 'm', '--adapter', 'a', '--output', 'o']
  const merging = ['merge', '--model', 'm', '--adapter', 'a', '--output', 'o']
  const cases: [string, string[], RegExp][] = [
    ['no command', [], /expected a command: train, eval/],
    ['unknown command', ['trian'], /unknown command 'trian'.*Did you mean train/],
    ['no subcommand', ['bench'], /expected a subcommand/],
    ['missing option of train', ['train', '--model', 'm'], /'--data' not given/],
    ['missing option of eval', ['eval', '--model', 'm'], /required option '--data <file>'/],
    ['missing argument', ['inspect'], /missing required argument 'dir'/],
    ['unknown option', [...train, '--batch-sze', '3'], /Did you mean --batch-size/],
    ['superfluous argument', ['devices', 'gpu'], /too many arguments/],
    ['no number', [...train, '--max-steps', 'ten'], /'--max-steps <n>' argument 'ten'/],
    ['fraction', [...train, '--batch-size', '1.5'], /a whole number from 1/],
    ['empty number', [...train, '--learning-rate', ''], /a number above 0/],
    ['infinity', [...train, '--learning-rate', 'Infinity'], /a number above 0/],
    ['out of range', ['generate', '--model', 'm', '--prompt', 'p', '--top-p', '3'], /up to 1/],
    ['unknown method', [...train, '--method', 'foo'], /expected s2ft, lora, dora/],
    ['unknown device', ['devices', '--device', 'tpu'], /expected cpu, cuda, auto/],
    ['unknown module', [...train, '--ratios', 'bar=0.1'], /module of q, k, v, o, gate, up, down/],
    ['share above 1', [...train, '--ratios', 'down=2'], /above 0 up to 1, found 'down=2'/],
    ['module twice', [...train, '--ratios', 'o=0.1,o=0.2'], /each module once/],
    ["another method's option", [...train, '--lora-r', '4'], /is for --method lora or dora/],
    ['rank without a number', [...train, '--lora-rank-pattern', 'q_proj'], /whole number from 1/],
    ['rank twice', [...train, '--lora-rank-pattern', 'q=1,q=2'], /each name once, found 'q=2'/],
    [
      'ratios and budget',
      [...train, '--ratios', 'o=0.1', '--budget-lora-rank', '4'],
      /exclude each other/,
    ],
    ['odd positions', [...train, '--loreft-positions', '7'], /first and last positions, e\.g\. f7/],
    ['odd layers', [...train, '--loreft-layers', '1,x'], /'--loreft-layers <list>'/],
    ['unknown selection', [...train, '--selection', 'best'], /expected random, weight, activation/],
    ['order of chance', [...train, '--selection-order', 'largest'], /other than random/],
    [
      'calibration of weights',
      [...train, '--selection', 'weight', '--calibration-share', '0.1'],
      /needs '--selection' activation, weight-activation or gradient/,
    ],
    ['unknown allocation', [...train, '--allocation', 'even'], /uniform, increasing.*or a weight/],
    ['weights all 0', [...train, '--allocation', '0,0'], /one above 0/],
    [
      'selection of another method',
      [...train, '--method', 'full', '--avoid', 'x'],
      /--method s2ft/,
    ],
    ['evaluation without data', [...train, '--eval-steps', '5'], /needs '--eval-data'/],
    ['size', [...train, '--memory-limit', 'much'], /expected a size/],
    ['outtype of PEFT', [...exporting, '--outtype', 'f16'], /'--outtype' is for --format gguf/],
    ['rank', [...exporting, '--max-rank', '0'], /expected a whole number from 1/],
    ['adapter twice', [...merging, '--adapter', 'a=2'], /expected each adapter once/],
    ['unknown benchmark method', ['bench', 'train', '--methods', 'x'], /expected s2ft, lora3/],
  ]
  test.each(cases)('%s', (_, args, message) => {
    expectError(s2ft(args), 'USAGE', message)
  })
})

test('a missing file is an IO error, and S2FT_DEBUG=1 adds the stack', () => {
  const args = ['inspect', '/nonexistent/directory']
  expectError(s2ft(args), 'IO', /expected a directory at \/nonexistent\/directory/)
  expect(s2ft(args, { env: { S2FT_DEBUG: '1' } }).stderr).toMatch(/\n\s+at .*inspect/)
})
