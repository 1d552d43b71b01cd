// What `s2ft bench serve` measures, how its lines come about, and what they are judged by.
import { describe, expect, test } from 'vitest'
import { parseLine } from '../../lib/bench/lines.js'
import { parseResults } from '../../lib/bench/read-results.js'
import { benchmarkPage } from '../../lib/bench/report.js'
import { equalColumns, randomAdapter } from '../../lib/bench/serve-adapters.js'
import { layerLines, layerMethods } from '../../lib/bench/serve-layer.js'
import { lackOfMemory } from '../../lib/bench/serve-run.js'
import { runSwitch, switchLines, switchMethods, switchSizes } from '../../lib/bench/serve-switch.js'
import { throughputLines, throughputMethods } from '../../lib/bench/serve-throughput.js'
import {
  measureThroughput,
  type ThroughputResult,
  type ThroughputSpec,
} from '../../lib/bench/serve-throughput-case.js'
import { judgeTargets } from '../../lib/bench/targets.js'
import { Model } from '../../lib/index.js'
import type {
  NativeLayerSpec,
  NativeLayerTiming,
  NativeSwitchSpec,
  NativeSwitchTiming,
} from '../../lib/native/binding.js'
import { native } from '../../lib/native/load.js'
import { expectError, s2ft, tinyModel } from '../cli/support.js'
import { benchLines } from './support.js'

const spec: NativeSwitchSpec = {
  width: 40,
  dtype: 'bf16',
  threads: 1,
  arithmetic: 'auto',
  weights: 3,
  methods: ['lora', 's2ft-cols', 's2ft-rows'],
  rank: 2,
  channels: 4,
  rounds: 2,
}
const timing = (method: NativeSwitchTiming['method'], seconds: number[]): NativeSwitchTiming => ({
  method,
  parameters: 10,
  keptBytes: 20,
  fuse: seconds.map((s) => 2 * s),
  switch: seconds,
  unfuse: seconds,
})
const sizes = { dtype: 'bf16' as const, threads: 1, width: 4096, weights: 8, weightBytes: 5 }
const measured = (rows: number, cols: number, width = 4096) =>
  switchLines(
    [
      timing('s2ft-rows', [rows, rows, rows]),
      timing('s2ft-cols', [cols, cols, 2 * cols]),
      timing('lora', [1, 2, 3]),
    ],
    { ...sizes, width },
  )
const runsOf = (lines: object[]) =>
  parseResults(lines.map((line) => JSON.stringify(line)).join('\n'), 'r').runs

describe('switch', () => {
  test.each(['f32', 'bf16'] as const)('all methods share their rounds in %s', async (dtype) => {
    const timings = await native().benchSwitch({ ...spec, dtype })
    expect(timings.map((t) => t.method)).toEqual(spec.methods)
    const size = dtype === 'f32' ? 4 : 2
    for (const t of timings) {
      expect(t.parameters).toBe(2 * 2 * 40)
      // LoRA keeps the whole weight, a slice itself.
      expect(t.keptBytes).toBe((t.method === 'lora' ? 40 : 4) * 40 * size)
      for (const seconds of [t.fuse, t.switch, t.unfuse]) {
        expect(seconds).toHaveLength(2)
        expect(Math.min(...seconds)).toBeGreaterThan(0)
      }
    }
  })

  test.each([
    [{ width: 0 }, /width: expected 1 to 65536, found 0/],
    [{ channels: 41 }, /channels: expected 1 to 40, found 41/],
    [{ rounds: 0 }, /rounds: expected 1 to 1000, found 0/],
    [{ dtype: 'f16' }, /dtype: expected f32 or bf16, found f16/],
    [{ methods: ['dora'] }, /methods: expected s2ft-rows, s2ft-cols or lora, found dora/],
  ] as [object, RegExp][])('%j is refused', async (change, message) => {
    const call = async () => native().benchSwitch({ ...spec, ...change } as NativeSwitchSpec)
    await expect(call()).rejects.toThrow(message)
    await expect(call()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })

  test('there are weights for more than the caches hold, with as many parameters', () => {
    const { weightBytes, weights, neededBytes } = switchSizes(1024, 'bf16', 16)
    expect(weightBytes).toBe(2 * 1024 ** 2)
    expect(weights * weightBytes).toBeGreaterThanOrEqual(2 ** 28)
    expect(neededBytes).toBeGreaterThan(2 * weights * weightBytes)
    expect(switchSizes(32768, 'f32', 16).weights).toBe(1)
  })

  test('ratios pair rounds; figures are medians', () => {
    const [rows, cols, lora] = measured(0.1, 0.5)
    expect(rows).toMatchObject({ switchSeconds: 0.1, fuseSeconds: 0.2, rounds: 3 })
    expect(rows!.loraRatio!.median).toBeCloseTo(20)
    expect(cols!.loraRatio).toEqual({ median: 3, range: [2, 4] })
    expect(lora).toMatchObject({ switchSeconds: 2, switchSecondsRange: [1, 3], loraRatio: null })
  })

  test('a width that does not fit is told', async () => {
    const found: unknown[] = []
    const common = { dtype: 'f32', threads: 1, arithmetic: 'auto', rank: 1, rounds: 1 } as const
    for await (const line of runSwitch({ ...common, widths: [2 ** 22] }, () => {})) found.push(line)
    expect(found).toEqual([
      expect.objectContaining({ type: 'serve-skipped', part: 'switch', what: 'width 4194304' }),
    ])
    expect(lackOfMemory('switch', 'nothing', 0)).toBeUndefined()
  })

  test('targets: ten times from 4096 on, never slower, by the least width of each kind', () => {
    const targets = judgeTargets(
      runsOf([...measured(0.01, 0.5), ...measured(0.3, 0.1, 1024), ...measured(0.1, 0.15, 8192)]),
    )
    const brief = targets.map((t) => [t.where, Math.round(t.measured * 100) / 100, t.target, t.met])
    expect(brief).toEqual([
      ['s2ft-rows bf16, width 8192', 20, 10, true],
      ['s2ft-cols bf16, width 4096', 3, 10, false],
      ['s2ft-rows bf16, width 1024', 6.67, 1, true],
      ['s2ft-cols bf16, width 4096', 3, 1, true],
    ])
    expect(judgeTargets(runsOf(measured(4, 4, 1024))).map((t) => t.met)).toEqual([false, false])
  })
})

describe('layer', () => {
  const spec: NativeLayerSpec = {
    ...{ width: 40, dtype: 'bf16', threads: 1, arithmetic: 'auto', adapters: 50, batch: 8, k: 4 },
    ...{ rounds: 2, passes: 3, method: 's2ft-cols' },
  }

  test.each(['s2ft-cols', 's2ft-rows', 'lora'] as const)('%s is measured', async (method) => {
    const k = method === 'lora' ? 2 : 4
    const timing = await native().benchLayer({ ...spec, method, k })
    expect(timing.parameters).toBe(2 * 2 * 40)
    expect(timing.seconds).toHaveLength(2)
    expect(timing.adapterSeconds).toHaveLength(2)
    for (const [i, seconds] of timing.seconds.entries()) {
      expect(timing.adapterSeconds[i]).toBeGreaterThan(0)
      expect(seconds).toBeGreaterThan(timing.adapterSeconds[i]!)
    }
  })

  test('all adapters are in memory', async () => {
    const { parameters, residentBytes } = await native().benchLayer({
      ...spec,
      ...{ width: 256, adapters: 2000, k: 32 },
    })
    const bytes = 2000 * parameters * 2
    expect(residentBytes).toBeGreaterThan(0.9 * bytes)
    expect(residentBytes).toBeLessThan(1.5 * bytes)
  })

  test.each([
    [{ batch: 51 }, /batch: expected 1 to 50, found 51/],
    [{ k: 41 }, /k: expected 1 to 40, found 41/],
    [{ method: 'dora' }, /method: expected s2ft-rows, s2ft-cols or lora, found dora/],
  ] as [object, RegExp][])('%j is refused', async (change, message) => {
    const call = async () => native().benchLayer({ ...spec, ...change } as NativeLayerSpec)
    await expect(call()).rejects.toThrow(message)
  })

  test('what adapters add is told apart; ratios pair rounds', () => {
    const timing = (seconds: number, residentBytes: number): NativeLayerTiming => ({
      ...{ parameters: 7, residentBytes, seconds: [seconds], adapterSeconds: [seconds - 1] },
    })
    const cases = layerMethods.map((method) => ({ adapters: 50, method }))
    const lines = layerLines(
      cases,
      [
        [timing(2, 10), timing(3, 10)],
        [timing(4, 20), timing(4, 20)],
        [timing(4, 40), timing(4, 20)],
      ],
      { ...sizes, layerWidth: 40, batch: 8, arithmetic: 'auto', rank: 2, rounds: 2 },
    )
    expect(lines[0]).toMatchObject({
      ...{ method: 's2ft-cols', seconds: 2.5, adapterSeconds: 1.5, adapterSecondsRange: [1, 2] },
      time: { median: 0.625, range: [0.5, 0.75] },
      memory: { median: 0.375, range: [0.25, 0.5] },
    })
    expect(lines[2]).toMatchObject({ method: 'lora', time: null, memory: null })
    const targets = judgeTargets(runsOf(lines))
    expect(targets.map(({ where, met }) => [where, met])).toEqual([
      ['s2ft-cols bf16, 50 adapters', true],
      ['s2ft-rows bf16, 50 adapters', false],
      ['s2ft-cols bf16, 50 adapters', true],
      ['s2ft-rows bf16, 50 adapters', true],
    ])
  })
})

describe('throughput', () => {
  const spec: ThroughputSpec = {
    ...{ model: tinyModel, dtype: 'f32', device: 'cpu', arithmetic: 'auto', threads: 1 },
    ...{ method: 'base', inFlight: 3, rank: 2, promptTokens: 4, newTokens: 5 },
  }

  test.each(throughputMethods)('%s decodes all sequences to their ends', async (method) => {
    const result = await measureThroughput({ ...spec, method })
    // Behind every first token, until one sequence has all of its own.
    expect(result.tokens).toBeGreaterThanOrEqual(4)
    expect(result.tokens).toBeLessThanOrEqual(3 * 4)
    expect(result.seconds).toBeGreaterThan(0)
    if (method === 'base') expect(result.parameters).toBe(0)
    else expect(result.parameters).toBeGreaterThan(0)
  })

  test('adapters of both kinds have as many parameters, to a column', async () => {
    await using model = await Model.load(tinyModel, { dtype: 'f32', threads: 1 })
    const s2ft = await randomAdapter(model, 's2ft', 3, 1)
    const lora = await randomAdapter(model, 'lora', 3, 1)
    const { layers, hiddenSize } = model.config.native
    expect(Math.abs(s2ft.parameters - lora.parameters)).toBeLessThanOrEqual(layers * hiddenSize)
    const prompt = Int32Array.of(1, 2, 3)
    const base = await model.logits(prompt)
    for (const adapter of [s2ft, lora]) {
      await model.fuse(adapter)
      expect(await model.logits(prompt)).not.toEqual(base)
      await model.unfuse(adapter)
    }
    expect(equalColumns(576, 1536, 16)).toBe(59)
    expect(equalColumns(4, 4, 100)).toBe(4)
  })

  test('shares of the base pair rounds, and 64 in flight are judged', () => {
    const result = (tokens: number): ThroughputResult => ({
      ...{ tokens, seconds: 2, parameters: 5, peakBytes: 10, device: 'cpu', threads: 1 },
    })
    const lines = throughputLines(
      throughputMethods.map((method) => ({ method, inFlight: 64 })),
      [
        [result(100), result(200)],
        [result(99), result(196)],
        [result(80), result(160)],
        [result(50), result(50)],
      ],
      { name: 'm', dtype: 'bf16' },
    )
    expect(lines[0]).toMatchObject({ method: 'base', tokensPerSecond: 75, ofBase: null })
    expect(lines[3]).toMatchObject({ ofBase: { median: 0.375, range: [0.25, 0.5] } })
    expect(judgeTargets(runsOf(lines)).map(({ measured, met }) => [measured, met])).toEqual([
      [0.985, true],
      [0.8, false],
    ])
  })
})

test('the command runs all parts, keeps their lines and judges them', () => {
  const flags = ['--widths', '256,512', '--rank', '2', '--rounds', '1', '--adapters', '10']
  const more = ['--layer-width', '16', '--batch', '4', '--model', tinyModel, '--in-flight', '2']
  const load = ['--clients', '3', '--minutes', '0.02', '--load-adapters', '2']
  const { ran, printed, kept } = benchLines(
    'bench serve --new-tokens 4 --dtype f32 --threads 1'.split(' ').concat(flags, more, load),
  )
  expect(ran.stderr).toMatch(/switch, width 512: faster than LoRA: s2ft-rows by/)
  const of = (type: string) => printed.filter((line) => line.type === type)
  expect(of('serve-switch').map(({ width, method }) => `${width} ${method}`)).toEqual(
    [256, 512].flatMap((width) => switchMethods.map((method) => `${width} ${method}`)),
  )
  expect(of('serve-layer').map(({ adapters, method }) => `${adapters} ${method}`)).toEqual(
    layerMethods.map((method) => `10 ${method}`),
  )
  expect(of('serve-throughput').map(({ method }) => method)).toEqual([...throughputMethods])
  expect(of('serve-load')[0]).toMatchObject({
    clients: 3,
    errors: 0,
    pagesBefore: 0,
    pagesAfter: 0,
  })
  expect(of('serve-load')[0]!.requests).toBeGreaterThanOrEqual(3)
  for (const line of printed) expect(parseLine(JSON.stringify(line)).type).toBe(line.type)
  // A few adapters may not show in the process's memory, so that nothing is said of it.
  const judged = of('target').map(({ what }) => String(what).split(' ')[0])
  for (const what of ['switch', 'time', 'tokens/s', 'requests', 'pages'])
    expect(judged).toContain(what)
  expect(kept[0]).toMatchObject({ type: 'run' })
  expect(kept.slice(1)).toEqual(printed)
  const page = benchmarkPage(parseResults(kept.map((l) => JSON.stringify(l)).join('\n'), 'r'))
  expect(page.sections.map(({ title }) => title)).toEqual(['Targets', 'Machine', 'Serving'])
})

test.each([
  [['--rank', '17', '--widths', '64,32'], 'USAGE', /expected up to half of the least width, 16/],
  [['--widths', '0'], 'USAGE', /--widths/],
  [['--batch', '1001'], 'USAGE', /expected up to the least of --adapters, 1000/],
  [
    ['--only', 'throughput', '--model', '/nowhere'],
    'IO',
    /expected smollm2-135m, .*or a model directory/,
  ],
  [['--only', 'nothing'], 'USAGE', /expected switch, layer, throughput, load/],
  [['--only', 'load'], 'USAGE', /expected a model directory with a tokenizer/],
  [['--clients', '0'], 'USAGE', /--clients/],
  [['--device', 'cuda'], 'DEVICE_UNAVAILABLE', /cpu backend only/],
] as [string[], string, RegExp][])('%j is refused', (args, code, message) => {
  expectError(s2ft(['bench', 'serve', ...args]), code, message)
})
