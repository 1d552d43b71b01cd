// The commands at work, on a random model of a few thousand weights.

import { once } from 'node:events'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { benchLines } from '../bench/support.js'
import { temporaryDirectory } from '../support/directories.js'
import { readSafetensors } from '../support/safetensors.js'
import { expectError, hasTokenizer, jsonLines, makeModel, s2ft, start } from './support.js'

let work: string
let model: string
let data: string
let adapter: string

const run = (output: string, ...more: string[]) => [
  ...['train', '--model', model, '--data', data, '--output', output, '--json'],
  ...['--batch-size', '2', '--learning-rate', '0.01', ...more],
]

describe.skipIf(!hasTokenizer)('with a model', () => {
  beforeAll(async () => {
    work = temporaryDirectory()
    model = await makeModel(join(work, 'model'))
    data = join(work, 'data.jsonl')
    const rows = Array.from({ length: 12 }, (_, i) => ({
      question: `How much is ${i} and ${i}?`,
      answer: `${2 * i}`,
    }))
    writeFileSync(data, rows.map((row) => `${JSON.stringify(row)}\n`).join(''))
    adapter = join(work, 'adapter')
    const events = jsonLines(
      s2ft(run(adapter, '--max-steps', '6', '--ratios', 'down=0.1,gate=0.1,o=0.25')),
    )
    expect(events.map((e) => e.type)).toEqual(['data', 'plan', ...Array(6).fill('step'), 'end'])
    expect(events[0]).toMatchObject({ kept: 12, truncated: 0, dropped: [] })
    expect(events.at(-1)).toMatchObject({ step: 6, path: adapter })
  })

  test('metrics.jsonl has a line a step', () => {
    const lines = readFileSync(join(adapter, 'metrics.jsonl'), 'utf8').trim().split('\n')
    expect(lines.map((line) => JSON.parse(line)).filter((e) => e.type === 'step')).toHaveLength(6)
  })

  test('the adapter lowers the loss; its merged model and its LoRA form do so alike', () => {
    const loss = (...args: string[]) =>
      jsonLines(s2ft(['eval', '--data', data, '--json', ...args])).at(-1)!.loss as number
    const before = loss('--model', model)
    const after = loss('--model', model, '--adapter', adapter)
    expect(after).toBeLessThan(before - 0.1)
    const [merged, peft] = [join(work, 'merged'), join(work, 'peft')]
    const both = ['--model', model, '--adapter', adapter, '--json', '--output']
    jsonLines(s2ft(['merge', ...both, merged]))
    expect(loss('--model', merged)).toBe(after)
    // Every slice has its own rank: 13 channels of down and gate, one head of 16 of o.
    expect(jsonLines(s2ft(['export', ...both, peft])).at(-1)).toMatchObject({
      modules: 6,
      rank: 16,
    })
    // A product with a one-hot factor is exact: the change is the same numbers.
    expect(loss('--model', model, '--adapter', peft)).toBe(after)
  })

  test('loreft trains, lowers the loss and generates; it is not merged or exported', () => {
    const output = join(work, 'loreft')
    const options = ['--loreft-r', '4', '--loreft-layers', '0,1', '--loreft-positions', 'f2+l4']
    const more = ['--loreft-separate-weights', '--loreft-dropout', '0.05', '--max-steps', '12']
    const events = jsonLines(s2ft(run(output, '--method', 'loreft', ...options, ...more)))
    // Two sets of R, W [4, 64] and b behind each of two layers.
    const parameters = 2 * 2 * (2 * 4 * 64 + 4)
    expect(events.find(({ type }) => type === 'plan')).toMatchObject({
      trainableParameters: parameters,
    })
    const evaluate = (...args: string[]) =>
      jsonLines(s2ft(['eval', '--data', data, '--json', '--model', ...args])).at(-1)!.loss as number
    expect(evaluate(model, '--adapter', output)).toBeLessThan(evaluate(model) - 0.1)
    expect(jsonLines(s2ft(['inspect', output, '--json']))[0]).toMatchObject({
      ...{ type: 'loreft-adapter', parameters, r: 4, positions: 'f2+l4', layers: [0, 1] },
    })
    const both = ['--model', model, '--adapter', output]
    const text = s2ft(['generate', ...both, '--prompt', 'How much', '--max-new-tokens', '3'])
    expect(text.status, text.stderr).toBe(0)
    const elsewhere = ['--output', join(work, 'loreft-merged')]
    for (const command of ['merge', 'export']) {
      expectError(s2ft([command, ...both, ...elsewhere]), 'UNSUPPORTED', /not weights/)
    }
    expect(existsSync(join(work, 'loreft-merged'))).toBe(false)
  })

  test.each(['s2ft', 'dora', 'loreft'])('%s trains and is evaluated over nf4', (method) => {
    const output = join(work, `${method}-nf4`)
    const events = jsonLines(
      s2ft(run(output, '--max-steps', '12', '--method', method, '--quantize', 'nf4')),
    )
    expect(events.find(({ type }) => type === 'plan')).toMatchObject({ quantization: 'nf4' })
    const given = ['--model', model, '--adapter', output, '--json']
    const loss = (...args: string[]) =>
      jsonLines(s2ft(['eval', '--data', data, ...args])).at(-1)!.loss as number
    const before = loss('--model', model, '--quantize', 'nf4', '--json')
    expect(loss(...given, '--quantize', 'nf4')).toBeLessThan(before - 0.1)
    jsonLines(
      s2ft(['generate', ...given, '--quantize', 'nf4', '--prompt', '2', '--max-new-tokens', '3']),
    )
    if (method === 'loreft') return
    jsonLines(s2ft(['merge', ...given, '--output', join(work, `${method}-nf4-merged`)]))
  })

  test('a bench table has quantized bases beside the plain one', () => {
    const methods = ['--methods', 's2ft,full', '--quantize', 'none,nf4', '--channels', '8']
    const small = ['--batch', '1', '--sequence', '16', '--steps', '1', '--warmup', '0']
    const lines = jsonLines(
      s2ft(['bench', 'train', '--model', model, ...methods, ...small, '--rounds', '1', '--json']),
    )
    const cases = lines.filter(({ type }) => type === 'case')
    expect(cases.map((line) => line.method)).toEqual(['s2ft', 'full', 's2ft-nf4'])
  })

  test.each([
    ['lora', ['--lora-r', '4', '--lora-rslora', '--lora-rank-pattern', 'down_proj=2']],
    ['dora', ['--lora-r', '4', '--lora-dropout', '0.1', '--target-modules', 'q,v,down']],
    ['sparse', ['--sparse-share', '0.1', '--sparse-selection', 'gradient', '--seed', '3']],
  ])('%s trains, lowers the loss, merges and generates', (method, options) => {
    const output = join(work, method)
    const events = jsonLines(s2ft(run(output, '--method', method, '--max-steps', '6', ...options)))
    const plan = events.find(({ type }) => type === 'plan')!
    expect(plan.trainableParameters).toBeGreaterThan(0)
    const evaluate = (...args: string[]) =>
      jsonLines(s2ft(['eval', '--data', data, '--json', '--model', ...args])).at(-1)!.loss as number
    const tuned = evaluate(model, '--adapter', output)
    expect(tuned).toBeLessThan(evaluate(model) - 0.1)
    const [adapterInfo] = jsonLines(s2ft(['inspect', output, '--json']))
    expect(adapterInfo!.parameters).toBe(plan.trainableParameters)
    const merged = join(work, `${method}-merged`)
    const both = ['--model', model, '--adapter', output, '--json']
    jsonLines(s2ft(['merge', ...both, '--output', merged]))
    expect(evaluate(merged)).toBe(tuned)
    const generated = s2ft(['generate', ...both, '--prompt', 'How', '--max-new-tokens', '3'])
    expect(jsonLines(generated).at(-1)).toMatchObject({ type: 'result' })
  })

  test.each([
    ['lisa', ['--lisa-layers', '1', '--lisa-interval', '2']],
    ['galore', ['--galore-r', '8', '--galore-update-interval', '4', '--galore-scale', '1']],
  ])('%s ends with a model directory that has a lower loss', (method, options) => {
    const output = join(work, method)
    const args = ['--method', method, '--max-steps', '6', ...options]
    const events = jsonLines(s2ft(run(output, ...args)))
    const plan = events.find(({ type }) => type === 'plan')!
    expect(plan.trainableShare).toBeGreaterThan(0)
    if (method === 'lisa') expect(plan.trainableShare).toBeLessThan(1)
    else expect(plan.trainableShare).toBe(1)
    const evaluate = (from: string) =>
      jsonLines(s2ft(['eval', '--data', data, '--json', '--model', from])).at(-1)!.loss as number
    expect(evaluate(output)).toBeLessThan(evaluate(model) - 0.1)
  })

  test('weights that merge does not touch are byte-identical', () => {
    const merged = join(work, 'merged-bytes')
    jsonLines(s2ft(['merge', '--model', model, '--adapter', adapter, '--output', merged, '--json']))
    const before = readSafetensors(join(model, 'model.safetensors'))
    const after = readSafetensors(join(merged, 'model.safetensors'))
    expect([...after.keys()].sort()).toEqual([...before.keys()].sort())
    const changed = [...before].filter(([name, { bytes }]) => {
      const other = after.get(name)!.bytes
      return Buffer.compare(Buffer.from(bytes), Buffer.from(other)) !== 0
    })
    for (const [name] of changed) expect(name).toMatch(/(down|gate|o)_proj/)
    expect(changed).toHaveLength(6)
  })

  test('generate streams tokens, then one result; the same seed gives the same text', () => {
    const args = ['generate', '--model', model, '--prompt', 'How much?', '--max-new-tokens', '8']
    const sampled = [...args, '--temperature', '1', '--seed', '3']
    const events = jsonLines(s2ft([...sampled, '--json']))
    const result = events.pop()!
    expect(result).toMatchObject({ type: 'result' })
    expect(events.every((e) => e.type === 'token')).toBe(true)
    expect(events.map((e) => e.text).join('')).toBe(result.text)
    expect(s2ft(sampled).stdout).toBe(`${result.text}\n`)
  })

  test.skipIf(!existsSync('/dev/full'))('a full disk under --output is one line of error', () => {
    const args = ['--data', data, '--task', 'loss', '--limit', '2', '--output', '/dev/full']
    const { status, stdout, stderr } = s2ft(['eval', '--model', model, ...args])
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' })
    expect(stderr.trim().split('\n').at(-1)).toMatch(/^s2ft: error \[IO\] .*\/dev\/full.*ENOSPC/)
  })

  test('math and choice end with an accuracy and its interval', () => {
    const evaluate = (...args: string[]) =>
      jsonLines(s2ft(['eval', '--model', model, '--json', ...args])).at(-1)!
    const samples = join(work, 'samples.jsonl')
    const math = ['--data', data, '--task', 'math', '--max-new-tokens', '4', '--limit', '5']
    const result = evaluate(...math, '--output', samples)
    expect(result).toMatchObject({ task: 'math', count: 5 })
    const [low, high] = result.interval as [number, number]
    expect(low).toBeLessThanOrEqual(result.accuracy as number)
    expect(high).toBeGreaterThan(low)
    expect(readFileSync(samples, 'utf8').trim().split('\n')).toHaveLength(5)

    const questions = join(work, 'choice.jsonl')
    const chosen = join(work, 'chosen.jsonl')
    const row = { question: 'Which?', choices: ['this', 'that', 'none'], answer: 1 }
    writeFileSync(questions, `${JSON.stringify(row)}\n`.repeat(3))
    const choice = evaluate('--data', questions, '--task', 'choice', '--output', chosen)
    expect(choice).toMatchObject({ task: 'choice', scoring: 'logprob', count: 3 })
    const picked = readFileSync(chosen, 'utf8')
      .trim()
      .split('\n')
      .map((l) => JSON.parse(l))
    for (const { answer, logProbs } of picked) {
      expect(logProbs['ABC'.indexOf(answer)]).toBe(Math.max(...logProbs))
    }
  })

  test('inspect explains model, adapter and run', () => {
    expect(jsonLines(s2ft(['inspect', model, '--json']))[0]).toMatchObject({
      type: 'model',
      layers: 2,
      kvHeads: 2,
    })
    const parts = jsonLines(s2ft(['inspect', adapter, '--json']))
    expect(parts.map((p) => p.type)).toEqual(['s2ft-adapter', 'training-run'])
    expect(parts[1]).toMatchObject({ steps: 6 })
  })

  test('adapters with weights: merged in any order, told where they overlap, exported to GGUF', () => {
    const other = join(work, 'other')
    jsonLines(s2ft(run(other, '--max-steps', '2', '--ratios', 'down=0.5', '--seed', '5')))
    const merge = (name: string, ...chosen: string[]) => {
      const output = join(work, name)
      const flags = chosen.flatMap((choice) => ['--adapter', choice])
      const ran = s2ft(['merge', '--model', model, ...flags, '--output', output, '--json'])
      jsonLines(ran)
      return { stderr: ran.stderr, bytes: readFileSync(join(output, 'model.safetensors')) }
    }
    const half = merge('half', `${adapter}=0.5`, `${other}=-1`)
    expect(half.stderr).toMatch(
      /^warning: .*adapter=0\.5 and .*other=-1 both change [\d,]+ weights/,
    )
    expect(merge('swapped', `${other}=-1`, `${adapter}=0.5`).bytes.equals(half.bytes)).toBe(true)
    expect(merge('both', adapter, other).bytes.equals(half.bytes)).toBe(false)
    merge('none', `${adapter}=0`)
    // Weight 0 leaves every value; the file's order of tensors may be another.
    const none = readSafetensors(join(work, 'none', 'model.safetensors'))
    for (const [name, tensor] of readSafetensors(join(model, 'model.safetensors'))) {
      expect(none.get(name), name).toEqual(tensor)
    }
    const parts = jsonLines(s2ft(['inspect', adapter, other, '--json']))
    expect(parts.at(-1)).toMatchObject({ type: 'overlap', sameBase: true, overlappingModules: 2 })
    const output = join(work, 'gguf')
    const gguf = ['--format', 'gguf', '--outtype', 'f16', '--json', '--output', output]
    const both = ['--model', model, '--adapter', adapter]
    expect(jsonLines(s2ft(['export', ...both, ...gguf])).at(-1)).toMatchObject({ format: 'gguf' })
    const file = join(output, 'adapter_model.gguf')
    for (const place of [output, file]) {
      const [part] = jsonLines(s2ft(['inspect', place, '--json']))
      expect(part).toMatchObject({ type: 'gguf-adapter', architecture: 'llama', dtypes: 'F16' })
    }
    const limited = s2ft(['export', ...both, '--output', join(work, 'x'), '--max-rank', '8'])
    expectError(limited, 'UNSUPPORTED', /--max-rank 8, found 16/)
  })

  test('devices lists this CPU and what of CUDA is missing', () => {
    const [cpu] = jsonLines(s2ft(['devices', '--json']))
    expect(cpu).toMatchObject({ kind: 'cpu', name: expect.any(String) })
    expect(cpu!.peakGflops).toBeGreaterThan(0)
  })

  test('cuda without its backend is an error that names the place and the remedy', () => {
    const env = { S2FT_CUDA_LIBRARY: join(work, 'none', 'libs2ft_cuda.so') }
    const asked = ['generate', '--model', model, '--prompt', 'a', '--device', 'cuda']
    expectError(s2ft(asked, { env }), 'DEVICE_UNAVAILABLE', /none\/libs2ft_cuda\.so.*build:cuda/)
    const [device] = jsonLines(s2ft(['devices', '--device', 'cuda', '--json'], { env }))
    expect(device).toMatchObject({ kind: 'cuda', available: false, found: [] })
    expect(device!.missing).toEqual([expect.stringContaining('build:cuda')])
  })

  test('lora saves a PEFT adapter, full a model directory', () => {
    const [lora, full] = [join(work, 'lora'), join(work, 'full')]
    jsonLines(s2ft(run(lora, '--method', 'lora', '--lora-r', '4', '--max-steps', '2')))
    const parts = jsonLines(s2ft(['inspect', lora, '--json']))
    expect(parts[0]).toMatchObject({ type: 'lora-adapter', r: 4 })
    jsonLines(s2ft(run(full, '--method', 'full', '--max-steps', '2')))
    expect(jsonLines(s2ft(['inspect', full, '--json']))[0]).toMatchObject({ type: 'model' })
  })

  test('Ctrl-C writes a checkpoint; --resume ends with the same bytes as an unbroken run', async () => {
    const [broken, whole] = [join(work, 'broken'), join(work, 'whole')]
    const steps = ['--max-steps', '300', '--num-train-epochs', '100']
    const child = start(run(broken, ...steps))
    let out = ''
    child.stdout.on('data', (chunk) => {
      if (!out.includes('"step":3') && `${out}${chunk}`.includes('"step":3')) child.kill('SIGINT')
      out += chunk
    })
    const [status] = await once(child, 'close')
    expect(status).toBe(130)
    const last = JSON.parse(out.trim().split('\n').at(-1)!)
    expect(last).toMatchObject({ type: 'interrupted' })
    expect(jsonLines(s2ft(['inspect', last.path, '--json']))[0]).toMatchObject({
      type: 'checkpoint',
      step: last.step,
    })
    const again = s2ft(run(broken, ...steps))
    expect(again.stderr).toMatch(/^s2ft: error \[INVALID_ARGUMENT\] .*earlier run.*\n$/)
    expect(again.status).toBe(1)
    expect(jsonLines(s2ft(run(broken, ...steps, '--resume'))).at(-1)).toMatchObject({ step: 300 })
    jsonLines(s2ft(run(whole, ...steps)))
    const bytes = (dir: string) => readFileSync(join(dir, 'adapter_model.safetensors'))
    expect(bytes(broken).equals(bytes(whole))).toBe(true)
  })

  test('a directory with other files is not trained into', () => {
    const foreign = temporaryDirectory()
    writeFileSync(join(foreign, 'thesis.tex'), 'precious')
    const ran = s2ft(run(foreign, '--max-steps', '1'))
    expectError(ran, 'IO', /found thesis\.tex.*--overwrite-output-dir/)
  })

  test('bench train prints a case a line', () => {
    const few = [
      '--batch',
      '1',
      '--sequence',
      '8',
      '--steps',
      '2',
      '--warmup',
      '1',
      '--rounds',
      '2',
    ]
    const {
      ran,
      printed: cases,
      kept,
    } = benchLines([
      ...['bench', 'train', '--model', model, '--channels', '8', '--dtype', 'f32', ...few],
    ])
    expect(ran.status, ran.stderr).toBe(0)
    expect(cases.map((c) => c.method)).toEqual(['s2ft', 'lora3', 'lora7', 'full'])
    // 8 channels of gate, up and down, hidden size 64, two layers.
    expect(cases[0]).toMatchObject({ trainable: 8 * 3 * 64 * 2, batch: 1, sequence: 8, steps: 4 })
    const ratios = kept.filter((line) => line.type === 'ratio')
    expect(ratios.map((r) => r.against)).toEqual(
      ['lora3', 'lora7', 'full'].flatMap((name) => [name, name]),
    )
    for (const c of cases) {
      expect(c.tokensPerSecond).toBeGreaterThan(0)
      expect(c.gflop).toBeGreaterThan(0)
      expect(c.peakBytes).toBeGreaterThan(0)
    }
  })
})
