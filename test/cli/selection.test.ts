// Choosing heads and channels on the command line: trained, resumed, inspected, drawn.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { cellsOf } from '../../lib/cli/selection-page.js'
import { temporaryDirectory } from '../support/directories.js'
import { expectError, hasTokenizer, jsonLines, makeModel, s2ft } from './support.js'

interface Slice {
  module: string
  count: number
  unit: string
  units: number
  of: number
  chosen: number[]
}

let work: string
let model: string
let data: string

const run = (output: string, ...more: string[]) => [
  ...['train', '--model', model, '--data', data, '--output', output],
  ...['--batch-size', '2', '--ratios', 'down=0.1,o=0.25', ...more],
]
const inspect = (directory: string) => jsonLines(s2ft(['inspect', directory, '--json']))

describe.skipIf(!hasTokenizer)('with a model', () => {
  beforeAll(async () => {
    work = temporaryDirectory()
    model = await makeModel(join(work, 'model'))
    data = join(work, 'data.jsonl')
    const rows = Array.from({ length: 12 }, (_, i) => ({
      prompt: `${i} + ${i}`,
      completion: `${2 * i}`,
    }))
    writeFileSync(data, rows.map((row) => `${JSON.stringify(row)}\n`).join(''))
  })

  test('the budget is told before training, in words and in numbers', () => {
    const spoken = s2ft(run(join(work, 'words'), '--max-steps', '1'))
    expect(spoken.status, spoken.stderr).toBe(0)
    // 13 channels of down and one head of 16 columns of o, 64 rows each, in two layers.
    expect(spoken.stdout).toMatch(
      /^trainable +3,712 of .* parameters \(.*%\), as many as LoRA of rank 1\.\d+ on all linear layers$/m,
    )
    expect(spoken.stdout).toMatch(/^by module +o 2,048 \(.*%\), down 1,664 \(.*%\)$/m)
    const plan = (name: string, ...options: string[]) =>
      jsonLines(
        s2ft([
          ...['train', '--model', model, '--data', data, '--output', join(work, name), '--json'],
          ...['--max-steps', '1', ...options],
        ]),
      ).find(({ type }) => type === 'plan')!
    expect(plan('lora', '--method', 'lora', '--lora-r', '3').equalLoraRank).toBe(3)
    for (const [name, ...options] of [
      ['full'],
      ['galore', '--galore-r', '4'],
      ['lisa', '--lisa-layers', '1'],
      ['sparse'],
      ['dora'],
      ['loreft', '--loreft-r', '2'],
    ] as [string, ...string[]][]) {
      const { trainableByModule, trainableParameters, equalLoraRank } = plan(
        name,
        ...['--method', name, ...options],
      )
      const parts = Object.values(trainableByModule as Record<string, number>)
      expect(
        parts.reduce((a, b) => a + b, 0),
        name,
      ).toBe(trainableParameters)
      expect(equalLoraRank, name).toBeGreaterThan(0)
    }
  })

  test('chosen by gradient, stopped, resumed: the same bytes as without a stop', () => {
    const options = ['--selection', 'gradient', '--calibration-share', '0.5', '--json']
    const [whole, parts] = [join(work, 'whole'), join(work, 'parts')]
    const more = [...options, '--allocation', 'increasing', '--lr-scheduler', 'constant']
    jsonLines(s2ft(run(whole, '--max-steps', '6', ...more)))
    jsonLines(s2ft(run(parts, '--max-steps', '3', '--save-steps', '3', ...more)))
    jsonLines(s2ft(run(parts, '--max-steps', '6', '--save-steps', '3', '--resume', ...more)))
    const bytes = (directory: string) => readFileSync(join(directory, 'adapter_model.safetensors'))
    expect(bytes(parts).equals(bytes(whole))).toBe(true)
    const error = s2ft(
      run(parts, '--max-steps', '9', '--resume', ...more, '--selection-order', 'smallest'),
    )
    expect(error.stderr).toMatch(/method: expected .*as in the checkpoint/)
  })

  test('inspect lists the units, --avoid leaves them alone, --plot draws them', () => {
    const [first, second] = [join(work, 'first'), join(work, 'second')]
    const options = ['--selection', 'activation', '--max-steps', '1', '--json']
    jsonLines(s2ft(run(first, ...options)))
    jsonLines(s2ft(run(second, ...options, '--avoid', first)))
    const [one, two] = [first, second].map((directory) => inspect(directory)[0]!)
    expect(one).toMatchObject({
      selection: 'activation',
      order: 'smallest',
      calibrationShare: '0.01',
      allocation: 'uniform',
      seed: 0,
    })
    const [a, b] = [one!.slices as Slice[], two!.slices as Slice[]]
    expect(a.map(({ unit, units, of }) => [unit, units, of])).toEqual([
      ['head', 1, 4],
      ['channel', 13, 128],
      ['head', 1, 4],
      ['channel', 13, 128],
    ])
    for (const [i, { chosen }] of a.entries()) {
      expect(chosen).toHaveLength(a[i]!.units)
      expect(b[i]!.chosen.filter((unit) => chosen.includes(unit))).toEqual([])
    }
    const text = s2ft(['inspect', first]).stdout
    expect(text).toContain(`${a[1]!.chosen.slice(0, 7).join(', ')} ... ${a[1]!.chosen.at(-1)}`)

    const page = join(work, 'pages', 'selection.html')
    expect(jsonLines(s2ft(['inspect', first, '--json', '--plot', page])).at(-1)).toEqual({
      type: 'plot',
      path: page,
    })
    const html = readFileSync(page, 'utf8')
    expect(html.match(/<svg /g)).toHaveLength(3)
    expect(html).toContain('o: 2 heads in 2 layers')
    expect(html).toContain('down: 26 channels in 2 layers')
    // A cell a unit: as many as train.
    expect(html.match(/<path d="M[^"]*" fill="var\(--series-1\)"/g)).toHaveLength(2 + 26)
    expectPlotError(model)
    const missing = s2ft(run(join(work, 'none'), '--avoid', first, join(work, 'nowhere')))
    expectError(missing, 'IO', /nowhere/)
  })
})

function expectPlotError(directory: string): void {
  const { status, stderr } = s2ft(['inspect', directory, '--plot', join(work, 'x.html')])
  expect(status).toBe(1)
  expect(stderr).toMatch(/\[INVALID_ARGUMENT\] --plot: expected an S²FT adapter in .*, found none/)
}

test('cells hold several units where a row is long', () => {
  const units = { module: '', layer: 3, kind: 'down', unit: 'channel' } as const
  expect(cellsOf({ ...units, chosen: [0, 1, 5, 299] }, 300)).toEqual([
    { row: 3, begin: 0, end: 3, share: 2 / 3 },
    { row: 3, begin: 3, end: 6, share: 1 / 3 },
    { row: 3, begin: 297, end: 300, share: 1 / 3 },
  ])
  expect(cellsOf({ ...units, chosen: [4] }, 5)).toEqual([{ row: 3, begin: 4, end: 5, share: 1 }])
})
