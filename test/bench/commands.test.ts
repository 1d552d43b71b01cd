// s2ft bench train and s2ft bench real on the tiny model, alone and with peers.
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { expectError, jsonLines, s2ft, tinyModel } from '../cli/support.js'
import { temporaryDirectory } from '../support/directories.js'
import { benchLines, peerPython, standIn } from './support.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const data = join(root, 'examples', 'quickstart', 'train.jsonl')
const python = peerPython()
if (!python) {
  console.warn('peers: skipped, S2FT_PEER_PYTHON names no Python with torch, transformers and peft')
}

const size = ['--channels', '16', '--rounds', '2', '--threads', '1']
const train = ['bench', 'train', '--model', tinyModel, '--dtype', 'f32', ...size]
const short = ['--batch', '2', '--sequence', '16', '--steps', '2', '--warmup', '1']
const real = ['bench', 'real', '--model', tinyModel, '--data', data, '--dtype', 'f32', ...size]
const few = ['--batch', '4', '--steps', '2', '--warmup', '1']
const names = (lines: Record<string, unknown>[], type: string) =>
  lines.filter((l) => l.type === type).map((l) => `${l.method} ${l.dtype} ${l.variant} ${l.batch}`)

describe('without peers', () => {
  test('bench real prints what was trained and how fast', () => {
    const { printed, kept } = benchLines([...real, ...few, '--methods', 's2ft,full'])
    expect(printed.map((l) => l.type)).toEqual(['real', 'real'])
    expect(kept.map((l) => l.type)).toEqual(['run', 'real', 'real', 'ratio', 'ratio'])
    expect(kept.slice(1, 3)).toEqual(printed)
    expect(printed[0]).toMatchObject({ method: 's2ft', variant: null, samples: 8, steps: 2 })
    for (const line of printed) {
      expect(line.samplesPerSecond).toBeGreaterThan(0)
      expect(line.tokensPerSecond).toBeGreaterThan(line.samplesPerSecond as number)
      expect(line.trainedShare).toBeGreaterThan(0)
      expect(line.trainedShare).toBeLessThan(1)
      expect(line.padding).toBeGreaterThanOrEqual(0)
      expect(line.padding).toBeLessThan(0.07)
      expect(line.peakBytes).toBeGreaterThan(0)
      // The loss of fit()'s first step is that of a forward pass on the same samples.
      expect(line.lossFirst as number).toBeCloseTo(line.lossBase as number, 4)
      expect(line.lossLast).not.toBe(line.lossFirst)
    }
    expect(kept[3]).toMatchObject({ quantity: 'samplesPerSecond', against: 'full' })
    expect(kept[4]).toMatchObject({ quantity: 'peakBytes', bench: 'real' })
  })

  test('rows without anything to learn are made up for by later ones', () => {
    const file = join(temporaryDirectory(), 'rows.jsonl')
    const row = (completion: string) => JSON.stringify({ prompt: 'Who is Mia?', completion })
    const write = (rows: string[]) => writeFileSync(file, rows.map((r) => `${r}\n`).join(''))
    const call = ['bench', 'real', '--model', tinyModel, '--data', file, ...size]
    const two = ['--batch', '1', '--steps', '1', '--warmup', '1', '--json']
    write([row(''), row(''), row(''), row('A'), row('B')])
    expect(jsonLines(s2ft([...call, ...two]))[0]).toMatchObject({ samples: 1 })
    write([row(''), row('A')])
    const ran = s2ft([...call, ...two])
    expect(ran.stderr).toMatch(/\[INVALID_DATA\] .*expected at least 2 usable samples, found 1/)
    expect(ran.status).toBe(1)
  })

  test.each([
    [['bench', 'real', '--data', data], /'--model' is needed/],
    [['bench', 'real', '--model', tinyModel], /'--data' is needed/],
    [[...real, '--channels', '385'], /'--channels': expected up to 384/],
    [[...real, '--peer-batches', '2'], /'--peer-batches': expected --python/],
    [[...real, '--python', 'x', '--peer-batches', '9'], /expected up to --batch, 8/],
    [[...train, '--peers', 'tuned'], /'--peers': expected --python/],
    [[...train, '--peer-methods', 'lora7'], /peft-lora3, peft-lora7/],
    [[...train, '--peers', 'fast'], /eager, tuned/],
  ] as [string[], RegExp][])('%j is a wrong call', (args, message) => {
    expectError(s2ft(args), 'USAGE', message)
  })

  test('a Python that is none is told before anything runs', () => {
    expectError(s2ft([...train, '--python', '/no/such/python']), 'IO', /--python.*torch/)
  })
})

describe('with a stand-in for Python', () => {
  test('a case that fails costs no other its results', () => {
    const flags = ['--python', standIn(), '--peers', 'eager,tuned', '--methods', 's2ft,lora7,full']
    const { ran, printed, kept: lines } = benchLines([...train, ...short, ...flags])
    expect(ran.status).toBe(1)
    expect(ran.stderr).toMatch(
      /\[INTERNAL\] 2 of 9 cases failed: peft-full f32 eager, batch 2; peft-full f32 tuned, batch 2\n$/,
    )
    expect(lines[1]).toMatchObject({ type: 'peers', torch: '1' })
    expect(names(lines, 'failure')).toEqual(['peft-full f32 eager 2', 'peft-full f32 tuned 2'])
    expect(lines.find((l) => l.type === 'failure')!.message).toMatch(/status 3: .*no room/)
    // Whoever reads stdout finds cases alone, with what they are documented to hold.
    expect(printed).toEqual(lines.filter((l) => l.type === 'case'))
    for (const line of printed) {
      expect(line).toMatchObject({ method: expect.any(String), model: tinyModel, dtype: 'f32' })
      for (const key of ['device', 'tokensPerSecond', 'peakBytes', 'gflop', 'shareOfPeak']) {
        expect(line).toHaveProperty(key)
      }
      // Peers measure nothing around their steps.
      if (line.variant !== null) expect(line.shareOfPeakAround).toBeNull()
      else expect(line.shareOfPeakAround).toBeGreaterThan(0)
    }
    expect(names(printed, 'case')).toEqual([
      's2ft f32 null 2',
      'lora7 f32 null 2',
      'full f32 null 2',
      'peft-lora7 f32 eager 2',
      'peft-lora7 f32 tuned 2',
      'torch-s2ft f32 eager 2',
      'torch-s2ft f32 tuned 2',
    ])
    // The stand-in's loss is wrong, and its tuned variant says that it compiled on the clock.
    const warnings = lines.filter((l) => l.type === 'warning').map((l) => l.message)
    expect(warnings).toHaveLength(6)
    expect(warnings[0]).toMatch(/^peft-lora7 f32 eager, batch 2: expected a first loss/)
    expect(warnings[2]).toMatch(/compiled while the clock ran/)
    const peer = lines.find((l) => l.type === 'case' && l.variant === 'tuned')
    expect(peer).toMatchObject({ trainable: 3, tokensPerSecond: 16, rounds: 2, steps: 2 })
  })

  test('peers run in every element type and batch size; the best is named', () => {
    const flags = ['--python', standIn(), '--peer-dtypes', 'bf16,f32', '--peer-batches', '4,1']
    const { kept: lines } = benchLines([...real, ...few, ...flags])
    expect(names(lines, 'real').slice(1)).toEqual([
      'peft-lora7 bf16 eager 4',
      'peft-lora7 bf16 eager 1',
      'peft-lora7 f32 eager 4',
      'peft-lora7 f32 eager 1',
    ])
    const best = lines.filter((l) => l.quantity === 'samplesPerSecond' && l.best)
    expect(best.map((l) => l.againstDtype)).toEqual(['bf16', 'bf16'])
    const text = s2ft([...real, ...few, ...flags]).stdout
    expect(text).toMatch(/s2ft f32 is \S+ \(\S+\) as fast as peft-lora7 eager at its best \(bf16/)
  })
})

describe.skipIf(!python)(`with PyTorch${python ? '' : ' (missing)'}`, () => {
  test('S²FT in PyTorch has autograd’s gradients', () => {
    const script = join(root, 'bench', 'peer', 'check_s2ft.py')
    const ran = spawnSync(python!, [script], { encoding: 'utf8' })
    expect(ran.stderr).not.toMatch(/check_s2ft/)
    expect(ran.stdout).toMatch(/agree with autograd/)
    expect(ran.status).toBe(0)
  })

  test('every peer does the work of our methods', () => {
    const methods = 'peft-lora3,peft-lora7,peft-dora3,peft-full,torch-s2ft'
    const flags = ['--python', python!, '--peer-methods', methods, '--rounds', '1']
    const { ran, kept: lines } = benchLines([...train, ...short, ...flags])
    expect(ran.status, ran.stderr).toBe(0)
    expect(names(lines, 'case').slice(4)).toEqual(methods.split(',').map((m) => `${m} f32 eager 2`))
    // Same weights, same tokens, same loss: no warning.
    expect(lines.filter((l) => l.type === 'warning')).toEqual([])
    const trainable = Object.fromEntries(
      lines.filter((l) => l.type === 'case').map((l) => [l.method, l.trainable]),
    )
    for (const method of ['lora3', 'lora7', 'full']) {
      expect(trainable[`peft-${method}`]).toBe(trainable[method])
    }
    expect(trainable['torch-s2ft']).toBe(trainable.s2ft)
  })

  test('a compiled peer runs on padded batches and learns the same', () => {
    const peers = ['--python', python!, '--peers', 'tuned', '--peer-methods', 'torch-s2ft']
    const { ran, kept: lines } = benchLines([...real, ...few, ...peers, '--rounds', '1'])
    expect(ran.status, ran.stderr).toBe(0)
    expect(lines.filter((l) => l.type === 'warning')).toEqual([])
    const [ours, peer] = lines.filter((l) => l.type === 'real')
    expect(peer!.lossFirst as number).toBeCloseTo(ours!.lossFirst as number, 3)
    expect(peer!.padding).toBeGreaterThan(0)
  })
})
