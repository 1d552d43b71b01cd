// Reports of benchmark results: what they hold, what they refuse, and the file they are drawn from.
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { type CaseRatio, type Line, parseLine } from '../../lib/bench/lines.js'
import { linesOf, parseResults } from '../../lib/bench/read-results.js'
import { benchmarkPage } from '../../lib/bench/report.js'
import { finishedRuns } from '../../lib/bench/results-file.js'
import { commandText } from '../../lib/bench/run-header.js'
import { judgeTargets } from '../../lib/bench/targets.js'
import { grouped } from '../../lib/report/format.js'
import { renderPage } from '../../lib/report/html.js'
import { barPlot, linePlot } from '../../lib/report/plots.js'
import { temporaryDirectory } from '../support/directories.js'
import { expectError, jsonLines, s2ft, tinyModel } from './support.js'

/** Lines of real runs on the tiny model, all benchmarks. */
const recorded = fileURLToPath(new URL('bench-results.jsonl', import.meta.url))
const recordedText = readFileSync(recorded, 'utf8')

function cells(html: string): Set<string> {
  return new Set(Array.from(html.matchAll(/<td[^>]*>([^<]*)<\/td>/g), (found) => found[1]!))
}

describe('the page', async () => {
  const results = parseResults(recordedText, 'r.jsonl')
  const html = await renderPage(benchmarkPage(results))

  test('has a section a run, and the figures in its tables', () => {
    expect(results.problems).toEqual([])
    const titles = Array.from(html.matchAll(/<h2>([^<]*)<\/h2>/g), (found) => found[1])
    expect(titles).toEqual([
      'Targets',
      'Machine',
      'Training steps',
      'Real data',
      'Single operations',
      'Memory',
      'Growth',
    ])
    const found = cells(html)
    for (const run of results.runs) {
      for (const line of linesOf(run, 'case')) {
        expect(found).toContain(line.tokensPerSecond.toFixed(0))
        expect(found).toContain(grouped(line.trainable))
      }
      for (const line of linesOf(run, 'ratio')) expect(found).toContain(`${line.ratio.toFixed(2)}x`)
      for (const line of linesOf(run, 'real')) {
        expect(found).toContain(line.samplesPerSecond.toFixed(2))
      }
      for (const line of linesOf(run, 'op')) expect(found).toContain(line.op)
      for (const line of [...linesOf(run, 'memory'), ...linesOf(run, 'growth')]) {
        expect(found).toContain(line.seconds.toPrecision(3))
      }
      for (const line of linesOf(run, 'growth-fit')) {
        expect(found).toContain(line.exponent.toFixed(2))
      }
      expect(html).toContain(run.header!.command)
    }
    expect(found).toContain('oneDNN 2.6.3')
  })

  test('has plots with words for those who cannot see them, and needs nothing from elsewhere', () => {
    const plots = html.match(/<figure>/g)!.length
    expect(plots).toBeGreaterThan(15)
    expect(html.match(/<svg role="img" aria-label="[^"]{20,}"/g)).toHaveLength(plots)
    expect(html).not.toMatch(/<script|<link|<img|\ssrc=|@import/)
    const addresses = new Set(html.match(/https?:[^"' <]*/g))
    addresses.delete('http://www.w3.org/2000/svg')
    addresses.delete('http://www.w3.org/1999/xlink')
    expect([...addresses]).toEqual([])
    expect(html).not.toMatch(/NaN|undefined|Infinity/)
  })

  test('shows what lines hold as text', async () => {
    const evil = recordedText.replaceAll('models/tiny', '<script>alert(1)</script>&"')
    const page = await renderPage(benchmarkPage(parseResults(evil.replaceAll('&"', '&'), 'x')))
    expect(page).toContain('&lt;script&gt;')
    expect(page).not.toContain('<script>')
  })
})

describe('lines that cannot be read are told of', () => {
  test.each([
    ['{"type":"ca', /expected a JSON object, found '\{"type":"ca'/],
    ['[]', /expected a type of run, .*, found none/],
    ['null', /found none/],
    ['{"type":"toString"}', /expected a type of run, .*, found "toString"/],
    ['{"type":"peak","threads":2,"gflops":"many","gbps":1}', /peak line: gflops: .*number/],
  ])('%s', (text, message) => expect(() => parseLine(text)).toThrow(message))

  test('with their place, on stderr, in JSON and in the page', () => {
    const folder = temporaryDirectory()
    const file = join(folder, 'results.jsonl')
    writeFileSync(file, `${recordedText}{"type":"mystery"}\n`)
    const line = recordedText.split('\n').length
    const output = join(folder, 'deep', 'report.html')
    const ran = s2ft(['bench', 'report', file, '--output', output, '--json'])
    expect(ran.stderr).toContain(`${file}:${line}: expected a type of`)
    const [summary] = jsonLines(ran)
    expect(summary).toMatchObject({ output, runs: 5, problems: [{ file, line }] })
    expect(readFileSync(output, 'utf8')).toContain(`results.jsonl:${line}: expected a type of`)
  })

  test('a missing file is an error', () => {
    const args = ['bench', 'report', '/nonexistent.jsonl', '--output', 'r.html']
    expectError(s2ft(args), 'IO', /expected a file of results at \/nonexistent\.jsonl/)
  })
})

describe('plots', () => {
  test('bars are as long as their values, side by side only without holes', async () => {
    const bars = [
      { label: 'one', series: 'a', value: 1 },
      { label: 'one', series: 'b', value: 3 },
      { label: 'two', series: 'a', value: 2, range: [1, 4] as const },
    ]
    const svg = await barPlot({ title: 't', description: 'd', axis: 'x', format: '.1f', bars })
    const lengths = Array.from(svg.matchAll(/role-mark.*?<\/g>/g), ([group]) =>
      Array.from(group.matchAll(/<path aria[^>]*d="M0,[\d.]+h([\d.]+)v/g), (d) => Number(d[1])),
    ).find((found) => found.length > 0)!
    expect(lengths).toHaveLength(3)
    expect(lengths[1]! / lengths[0]!).toBeCloseTo(3, 6)
    expect(lengths[2]! / lengths[0]!).toBeCloseTo(2, 6)
    for (const label of ['one a', 'one b', 'two', '1.0', '3.0', '2.0']) {
      expect(svg).toContain(`>${label}</text>`)
    }
  })

  test('powers are straight lines on logarithmic axes', async () => {
    const points = [1, 10, 100, 1000].map((x) => ({ x, y: 5 * x ** 2, series: 's' }))
    const svg = await linePlot({
      ...{ title: 't', description: 'd', xAxis: 'x', yAxis: 'y', scale: 'log', points },
      ...{ xFormat: ',.0f', yFormat: ',.0f' },
    })
    const path = /d="(M[\d.,L]+)"[^>]*stroke="var\(--series-1\)"/.exec(svg)![1]!
    const places = path
      .slice(1)
      .split('L')
      .map((pair) => pair.split(',').map(Number))
    expect(places).toHaveLength(4)
    for (let i = 1; i < 4; i++) {
      expect(places[i]![0]! - places[i - 1]![0]!).toBeCloseTo(places[1]![0]! - places[0]![0]!, 2)
      expect(places[i]![1]! - places[i - 1]![1]!).toBeCloseTo(places[1]![1]! - places[0]![1]!, 2)
    }
  })
})

describe('targets', () => {
  const identity = { method: 's2ft', dtype: 'bf16', variant: null, batch: 4 }
  const ratio = (
    against: string,
    variant: string | null,
    dtype: string,
    value: number,
    quantity: CaseRatio['quantity'] = 'tokensPerSecond',
  ): Line => ({
    ...{ type: 'ratio', bench: 'train', ...identity, model: 'm', quantity, against },
    ...{ againstDtype: dtype, againstVariant: variant, againstBatch: 4 },
    ...{ ratio: value, ratioRange: [value - 0.1, value + 0.1], best: true },
  })
  const own = {
    ...{ type: 'case', ...identity, model: 'm', threads: 2, sequence: 8, trainable: 1 },
    ...{ tokensPerSecond: 1, tokensPerSecondRange: [1, 1], peakBytes: 1, gflop: 1 },
    ...{ shareOfPeak: 0.86, peakGflops: 1, rounds: 1 },
  } as Line
  const judged = (lines: Line[]) =>
    judgeTargets([{ file: 'f', lines }]).map(({ what, measured, met }) => [
      what.replace(/ .*(own|as it comes|tuned|size)$/, ' $1'),
      measured,
      met,
    ])

  test('take the faster of a peer’s types, the leaner of its methods', () => {
    const lines = [
      own,
      ratio('peft-lora7', 'eager', 'bf16', 2.5),
      ratio('peft-lora7', 'eager', 'f32', 1.9),
      ratio('peft-lora3', 'tuned', 'bf16', 1.7),
      ratio('peft-lora3', 'eager', 'bf16', 0.34, 'peakBytes'),
      ratio('peft-lora7', 'eager', 'bf16', 0.3, 'peakBytes'),
      ratio('peft-lora7', 'eager', 'f32', 0.9, 'peakBytes'),
      ratio('lora3', null, 'bf16', 1.2),
      ratio('lora3', null, 'bf16', 0.8, 'peakBytes'),
      ratio('full', null, 'bf16', 0.1),
    ]
    expect(judged(lines)).toEqual([
      ['share of the measured peak', 0.86, true],
      ['speed as it comes', 1.9, false],
      ['speed tuned', 1.7, true],
      ['peak as it comes', 0.34, false],
      ['speed size', 1.2, true],
      ['peak size', 0.8, true],
    ])
  })

  test('hold the plan to its worst case, above or below', () => {
    const memory = parseResults(recordedText, 'r').runs.flatMap((run) => linesOf(run, 'memory'))
    const worst = { ...memory[0]!, planDifference: -0.06 }
    const near = { ...memory[1]!, planDifference: 0.04 }
    expect(judged([near, worst]).map(([, measured, met]) => [measured, met])).toEqual([
      [0.06, false],
    ])
  })

  test('are none where nothing was measured for them', () => {
    expect(judgeTargets([{ file: 'f', lines: [] }])).toEqual([])
  })
})

describe('files of results', () => {
  const tiny = ['--model', tinyModel, '--batch', '1', '--sequence', '8', '--channels', '8']
  const train = ['bench', 'train', ...tiny, '--steps', '1', '--warmup', '0', '--rounds', '1']

  test('--output keeps each run behind its header, and mends a line that was broken off', () => {
    const file = join(temporaryDirectory(), 'new folder', 'results.jsonl')
    const args = [...train, '--methods', 's2ft', '--output', file]
    const printed = jsonLines(s2ft([...args, '--json']))
    expect(printed.map((line) => line.type)).toEqual(['case'])
    appendFileSync(file, '{"type":"ca')
    expect(s2ft(args).status).toBe(0)
    const { runs, problems } = parseResults(readFileSync(file, 'utf8'), file)
    expect(problems.map(({ line }) => line)).toEqual([3])
    expect(runs.map((run) => run.lines.map((line) => line.type))).toEqual([['case'], ['case']])
    expect(runs[0]!.header).toMatchObject({ command: commandText([...args, '--json']) })
    expect(runs[1]!.header!.machine.cores).toBeGreaterThan(0)
  })

  test('a wrong call writes nothing', () => {
    const file = join(temporaryDirectory(), 'results.jsonl')
    const ran = s2ft([...train, '--channels', '9999', '--output', file])
    expectError(ran, 'USAGE', /expected up to/)
    expect(readFileSync(file, 'utf8')).toBe('')
  })

  test('a place that cannot be written is an error before anything is measured', () => {
    expectError(s2ft([...train, '--output', '/proc/results.jsonl']), 'IO', /append|results/)
  })

  test('commands that did not end are dropped, others kept byte for byte', () => {
    const run = (command: string) =>
      `{"type":"run",${recordedText.slice(14).split('\n')[0]!}`.replace(
        /"command":"[^"]*"/,
        `"command":"${command}"`,
      )
    const first = `${run('a')}\n{"odd": 1}\n{"type":"end","command":"a","seconds":1}\n`
    const last = `${run('c')}\n{"type":"end","command":"c","seconds":2}\n`
    const found = finishedRuns(`${first}${run('b')}\n{"type":"peak"}\n${last}${run('d')}\n{"ty`)
    expect(found.text).toBe(first + last)
    expect([...found.commands]).toEqual(['a', 'c'])
  })
})

test('bench all runs its parts, judges them, and goes on where it stopped', () => {
  const output = temporaryDirectory()
  const data = fileURLToPath(new URL('../../examples/quickstart/train.jsonl', import.meta.url))
  const call = (...only: string[]) =>
    s2ft([
      ...['bench', 'all', '--quick', '--model', tinyModel, '--data', data],
      ...['--output', output, '--only', only.join(',')],
    ])
  const first = call('train')
  expect(first.stdout).toMatch(/share of the measured peak +[\d.]+% +at least 85.0% +(yes|no)/)
  expect(first.status, first.stderr).toBe(0)
  const file = join(output, 'results.jsonl')
  const before = readFileSync(file, 'utf8')
  // As if the next part had been killed.
  appendFileSync(file, before.split('\n')[0]!)
  const second = call('train', 'ops', 'serve')
  expect(second.status, second.stderr).toBe(0)
  expect(second.stderr).toContain('already done: s2ft bench train')
  const after = readFileSync(file, 'utf8')
  expect(after.startsWith(before)).toBe(true)
  const { runs, problems } = parseResults(after, file)
  expect(problems).toEqual([])
  expect(runs.map((run) => run.lines.at(-1)!.type)).toEqual(['end', 'end', 'end'])
  const served = new Set(runs.at(-1)!.lines.map((line) => line.type))
  for (const kind of ['switch', 'layer', 'throughput', 'load']) {
    expect(served).toContain(`serve-${kind}`)
  }
  const page = readFileSync(join(output, 'report.html'), 'utf8')
  for (const title of ['Single operations', 'Serving']) expect(page).toContain(title)
})

test('bench all asks for what it needs before it measures', () => {
  const args = ['bench', 'all', '--model', '/nonexistent', '--data', 'x', '--output', 'never']
  expectError(s2ft(args), 'IO', /expected \/nonexistent/)
})
