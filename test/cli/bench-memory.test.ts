// Memory: what a recompute policy repeats, how cases are compared, and the command's lines.
import { expect, test } from 'vitest'
import type { CaseResult } from '../../lib/bench/case.js'
import { memoryCases, summariseMemory } from '../../lib/bench/memory.js'
import { type BenchMethod, recomputedOperations } from '../../lib/bench/operations.js'
import { shapes } from '../../lib/bench/shapes.js'
import { temporaryDirectory } from '../support/directories.js'
import { expectError, hasTokenizer, jsonLines, makeModel, s2ft } from './support.js'

const shape = {
  ...shapes['smollm2-135m']!,
  hidden_size: 8,
  intermediate_size: 24,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 2,
  vocab_size: 10,
}

test('only block repeats products: all of a layer but down, attention and the factors', () => {
  const count = (method: BenchMethod, policy: 'selective' | 'block') =>
    recomputedOperations(shape, method, policy, 2, 5, { rank: 3 })
  // A layer over 10 tokens: q and o 8 x 8, k and v 8 x 4, gate and up 8 x 24.
  const products = 2 * 10 * (2 * 64 + 2 * 32 + 2 * 192)
  const attention = 2 * 10 * 5 * 8
  expect(count('s2ft', 'selective')).toBe(0)
  expect(count('s2ft', 'block')).toBe(3 * (products + attention))
  expect(count('full', 'block')).toBe(3 * (products + attention))
  const feedForward = 2 * 10 * 3 * (3 * 32)
  expect(count('lora3', 'block')).toBe(3 * (products + attention + feedForward))
  const others = 2 * 10 * 3 * (2 * 16 + 2 * 12)
  expect(count('lora7', 'block')).toBe(3 * (products + attention + feedForward + others))
  const down = 2 * 10 * 192
  expect(count('dora3', 'block')).toBe(3 * (products + down + attention + feedForward))
  expect(count('loreft', 'block')).toBe(2 * (products + attention))
})

const plain = (method: 's2ft' | 'full') => ({ name: method, method, quantize: 'none' as const })

const options = {
  methods: [plain('s2ft'), plain('full')],
  recompute: ['block', 'none'],
  dtypes: ['bf16', 'f32'],
  device: 'cpu',
  arithmetic: 'auto',
  threads: 1,
  batch: 2,
  sequence: 5,
  steps: 1,
  warmup: 0,
  rank: 3,
  channels: 4,
} as const

test('every method under every policy, and the peers with LoRA of each kind', () => {
  const own = memoryCases(options, shape, { bf16: 'a', f32: 'b' })
  expect(own.map(({ name, spec }) => [name, spec.recompute, spec.dtype, spec.model])).toEqual([
    ['s2ft', 'block', 'bf16', 'a'],
    ['s2ft', 'none', 'bf16', 'a'],
    ['full', 'block', 'bf16', 'a'],
    ['full', 'none', 'bf16', 'a'],
    ['s2ft', 'block', 'f32', 'b'],
    ['s2ft', 'none', 'f32', 'b'],
    ['full', 'block', 'f32', 'b'],
    ['full', 'none', 'f32', 'b'],
  ])
  const all = memoryCases({ ...options, python: 'python3' }, shape, { bf16: 'a', f32: 'b' })
  const peers = all.filter((item) => item.peer)
  expect(peers.map(({ name, spec }) => [name, spec.dtype])).toEqual([
    ['peft-lora7', 'bf16'],
    ['peft-lora3', 'bf16'],
    ['peft-lora7', 'f32'],
    ['peft-lora3', 'f32'],
  ])
})

test('a policy is compared with none of its own method and type, round by round', () => {
  const one = {
    ...options,
    methods: [plain('s2ft')],
    dtypes: ['bf16', 'f32'],
    python: 'p',
  } as const
  const cases = memoryCases(one, shape, { bf16: 'a', f32: 'b' })
  const round = (seconds: number, peakBytes: number, own = true): CaseResult => ({
    seconds: [seconds],
    trainable: 1,
    peakBytes,
    device: 'cpu',
    threads: 1,
    loss: 1,
    ...(own && {
      plan: { total: 100 } as never,
      baseBytes: 10,
      startBytes: 20,
      peakGflops: peakBytes,
    }),
  })
  const bf16 = [
    [round(3, 80), round(4, 80)],
    [round(2, 100), round(2, 100)],
    [round(9, 400, false), round(9, 400, false)],
    [round(9, 200, false), round(9, 160, false)],
  ]
  const f32 = bf16.map((list) => list.map((r) => ({ ...r, seconds: [10], peakBytes: 1000 })))
  const lines = summariseMemory(cases, [...bf16, ...f32], 'm', shape)
  expect(lines[0]).toMatchObject({
    type: 'memory',
    method: 's2ft',
    recompute: 'block',
    plannedBytes: 100,
    planDifference: 0.25,
    memoryBytes: 70,
    stepBytes: 60,
    timeAgainstNone: { median: 1.75, range: [1.5, 2] },
    peakAgainstNone: { median: 0.8 },
    peakAgainst: {
      'peft-lora7': { median: 0.2 },
      'peft-lora3': { median: 0.45, range: [0.4, 0.5] },
    },
    peakGflops: 100,
  })
  expect(lines[1]).toMatchObject({ recompute: 'none', timeAgainstNone: { median: 1 } })
  expect(lines[2]).toMatchObject({
    method: 'peft-lora7',
    recompute: null,
    plan: null,
    plannedBytes: null,
    stepBytes: null,
    timeAgainstNone: null,
    recomputedGflop: 0,
  })
  expect(lines[4]).toMatchObject({ dtype: 'f32', timeAgainstNone: { median: 1 } })
})

test.skipIf(!hasTokenizer)('the command prints a case a line', async () => {
  const model = await makeModel(temporaryDirectory())
  const few = ['--batch', '2', '--sequence', '64', '--steps', '1', '--rounds', '1']
  const lines = jsonLines(
    s2ft([
      ...['bench', 'memory', '--model', model, '--methods', 's2ft,lora7', '--dtype', 'f32'],
      ...['--channels', '8', '--json', ...few],
    ]),
  )
  expect(lines.map((line) => [line.method, line.recompute])).toEqual(
    ['s2ft', 'lora7'].flatMap((m) => ['none', 'selective', 'block'].map((p) => [m, p])),
  )
  const kept = lines.map((line) => (line.plan as { activations: number }).activations)
  for (const first of [0, 3]) {
    expect(kept[first]).toBeGreaterThan(kept[first + 1]!)
    expect(kept[first + 1]).toBeGreaterThan(kept[first + 2]!)
  }
  for (const line of lines) {
    expect(line).toMatchObject({ type: 'memory', dtype: 'f32', peakAgainst: {}, rounds: 1 })
    expect(line.seconds).toBeGreaterThan(0)
    expect(line.peakBytes).toBeGreaterThan(line.stepBytes as number)
    // The process itself is most of so small a step: the plan is not far off in any case.
    expect(Math.abs(line.planDifference as number)).toBeLessThan(0.5)
    if (line.recompute === 'block') expect(line.recomputedGflop).toBeGreaterThan(0)
    else expect(line.recomputedGflop).toBe(0)
  }
})

test.each([
  [['--recompute', 'all'], 'USAGE', /expected none, selective, block/],
  [['--methods', 's2ft,x'], 'USAGE', /expected s2ft, lora3, lora7, full/],
  [['--channels', '1537'], 'USAGE', /expected up to 1536/],
  [['--model', '/nonexistent'], 'IO', /expected smollm2-135m, llama-1b-4l, .*or a model directory/],
  [['--device', 'cuda'], 'DEVICE_UNAVAILABLE', /cpu backend only/],
] as [string[], string, RegExp][])('%j is refused', (args, code, message) => {
  expectError(s2ft(['bench', 'memory', ...args]), code, message)
})
