// Single operations: what is measured, how it is counted, and which sizes are refused.
import { Worker } from 'node:worker_threads'
import { describe, expect, test } from 'vitest'
import { opGroups, runOps, summariseOps } from '../../lib/bench/ops.js'
import { shapes } from '../../lib/bench/shapes.js'
import type { NativeOpsSpec } from '../../lib/native/binding.js'
import { native, packageRoot } from '../../lib/native/load.js'
import { expectError, jsonLines, s2ft } from './support.js'

const tiny = {
  ...shapes['smollm2-135m']!,
  hidden_size: 32,
  intermediate_size: 48,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 8,
  vocab_size: 50,
}
const options = {
  threads: 1,
  arithmetic: 'auto' as const,
  tokens: 6,
  channels: 5,
  rank: 3,
  seconds: 0,
}
const spec: NativeOpsSpec = {
  group: 'method',
  dtype: 'f32',
  threads: 1,
  arithmetic: 'auto',
  tokens: 6,
  hidden: 32,
  intermediate: 48,
  heads: 4,
  kvHeads: 2,
  headDim: 8,
  vocab: 50,
  channels: 5,
  rank: 3,
  seconds: 0,
}

test.each(['f32', 'bf16'] as const)('every group runs in %s and adds up', async (dtype) => {
  const heard: string[] = []
  const report = await runOps(tiny, { ...options, dtype }, (group) => heard.push(group))
  expect(heard).toEqual([...opGroups])
  expect(new Set(report.ops.map((op) => op.op)).size).toBe(report.ops.length)
  for (const op of report.ops) {
    expect(op.rounds).toBe(5)
    expect(op.seconds).toBeGreaterThan(0)
    expect(op.secondsRange[0]).toBeLessThanOrEqual(op.seconds)
    expect(op.secondsRange[1]).toBeGreaterThanOrEqual(op.seconds)
    expect(op.gbps).toBeGreaterThan(0)
    expect(op.shareOfPeak).toBeGreaterThan(0)
    if (op.gflops !== null) expect(op.shareOfPeak).toBeLessThanOrEqual(1)
  }
  expect(report.ratios.map((r) => `${r.op} ${r.against}`)).toEqual([
    'partial_forward lora_forward',
    'partial_backward lora_backward',
    'slice_adamw lora_adamw',
  ])
})

test('operations and bytes are those of the shapes', async () => {
  const timings = (
    await Promise.all(opGroups.slice(1).map((group) => native().benchOps({ ...spec, group })))
  ).flat()
  const flops = Object.fromEntries(timings.map((t) => [t.op, t.flops]))
  const bytes = Object.fromEntries(timings.map((t) => [t.op, t.bytes]))
  expect(flops).toMatchObject({
    qkv_forward: 2 * 6 * 32 * (32 + 2 * 16),
    down_dx: 2 * 6 * 48 * 32,
    head_forward: 2 * 6 * 32 * 50,
    slice_rows_gradient: 2 * 6 * 32 * 5,
    slice_cols_gradient: 2 * 6 * 32 * 5,
    lora_a_forward: 2 * 6 * 48 * 3,
    lora_b_gradient: 2 * 6 * 32 * 3,
    attention_forward: 2 * 6 * 6 * 32,
    attention_backward: 4 * 6 * 6 * 32,
    rope: 0,
    partial_forward: 3 * 2 * 6 * 32 * 48,
    lora_forward: 3 * 2 * 6 * (32 * 48 + 3 * (32 + 48)),
    partial_backward: 3 * 2 * 6 * 32 * (48 + 5),
    lora_backward: 3 * 2 * 6 * (32 * 48 + 2 * 3 * (32 + 48)),
  })
  // f32: value, moments read and written, gradient read.
  expect(bytes.slice_adamw).toBe(7 * 4 * 3 * 5 * 32)
  expect(bytes.lora_adamw).toBe(7 * 4 * 3 * 3 * (32 + 48))
  expect(bytes.permute_cols).toBe(2 * 4 * 32 * 48)
  expect(bytes.qkv_forward).toBe(4 * (6 * 32 + 32 * 64 + 6 * 64))
})

test('rates are medians, the peak is the best of the run, ratios pair rounds', () => {
  const report = summariseOps(
    [
      ['copy', [{ op: 'copy', flops: 0, bytes: 8e9, seconds: [2, 1, 4] }]],
      [
        'method',
        [
          { op: 'partial_forward', flops: 3e9, bytes: 1e9, seconds: [1, 3, 2] },
          { op: 'lora_forward', flops: 6e9, bytes: 1e9, seconds: [2, 3, 8] },
        ],
      ],
    ],
    'f32',
    2,
    1,
  )
  expect(report.peak).toMatchObject({ gflops: 3, gbps: 8 })
  expect(report.ops[0]).toMatchObject({ seconds: 2, gflops: null, gbps: 4, shareOfPeak: 0.5 })
  expect(report.ops[1]).toMatchObject({ seconds: 2, gflops: 1.5, shareOfPeak: 0.5 })
  expect(report.ratios).toEqual([
    {
      type: 'ratio',
      op: 'partial_forward',
      against: 'lora_forward',
      dtype: 'f32',
      ratio: 2,
      ratioRange: [1, 4],
    },
  ])
})

describe('wrong sizes are refused before anything runs', () => {
  const cases: [Record<string, unknown>, RegExp][] = [
    [{ tokens: 0 }, /tokens: expected 1 to \d+, found 0/],
    [{ channels: 49 }, /channels: expected 1 to 48, found 49/],
    [{ kvHeads: 3 }, /heads: expected a multiple of kvHeads/],
    [{ headDim: 7 }, /headDim: expected an even number, found 7/],
    [{ dtype: 'f16' }, /dtype: expected f32 or bf16, found f16/],
    [{ threads: -1 }, /threads: expected 0 to 4096, found -1/],
    [{ seconds: Number.NaN }, /seconds: expected 0 to 60/],
    [{ group: 'nothing' }, /group: expected copy/],
  ]
  test.each(cases)('%j', async (change, message) => {
    const call = async () => native().benchOps({ ...spec, ...change } as NativeOpsSpec)
    await expect(call()).rejects.toThrow(message)
    await expect(call()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })
})

test('an aborted signal ends the run at the next group', async () => {
  const controller = new AbortController()
  const run = runOps(
    tiny,
    { ...options, dtype: 'f32' },
    () => controller.abort(),
    controller.signal,
  )
  await expect(run).rejects.toMatchObject({ code: 'CANCELLED' })
})

test('a thread that ends stops its measurement between two runs', async () => {
  // A minute for each of seven operations, were it not stopped.
  const code = `
    const { parentPort } = require('node:worker_threads')
    const addon = require('node-gyp-build')(${JSON.stringify(packageRoot)})
    addon.benchOps(${JSON.stringify({ ...spec, seconds: 60 })})
    parentPort.postMessage('running')`
  const worker = new Worker(code, { eval: true })
  await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
  const begin = performance.now()
  await worker.terminate()
  expect(performance.now() - begin).toBeLessThan(10_000)
})

test('the command prints one JSON object a line', () => {
  const flags = ['--tokens', '8', '--seconds', '0', '--threads', '1']
  const lines = jsonLines(s2ft(['bench', 'ops', '--json', '--dtype', 'f32', ...flags]))
  expect(new Set(lines.map((line) => line.type))).toEqual(new Set(['peak', 'op', 'ratio']))
  const product = lines.find((line) => line.op === 'gate_up_forward')
  expect(product).toMatchObject({ type: 'op', dtype: 'f32', group: 'products' })
  expect(product!.gflops).toBeGreaterThan(0)
})

test.each([
  [['--channels', '1537'], 'USAGE', /expected up to 1536/],
  [['--shape', 'gpt'], 'USAGE', /expected smollm2-135m, llama-1b-4l/],
  [['--tokens', '0'], 'USAGE', /--tokens/],
  [['--device', 'cuda'], 'DEVICE_UNAVAILABLE', /cpu backend only/],
] as [string[], string, RegExp][])('%j is refused', (args, code, message) => {
  expectError(s2ft(['bench', 'ops', ...args]), code, message)
})
