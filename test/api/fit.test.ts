// Whole runs on a tiny model: events, interruption, exact resume, and refusals.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  dora,
  full,
  galore,
  lisa,
  lora,
  Model,
  type SampleInput,
  s2ft,
  sparse,
  type TrainEvent,
  Trainer,
  type TrainerOptions,
} from '../../lib/index.js'
import { temporaryDirectory } from '../support/directories.js'
import { goldenRoot } from '../support/golden.js'
import { rejection } from '../support/rejection.js'

const directory = join(goldenRoot, 'llama-gqa')

/** 11 samples of different lengths over the model's 67 tokens. */
const samples: SampleInput[] = Array.from({ length: 11 }, (_, i) => {
  const tokens = Array.from({ length: 4 + ((i * 7) % 9) }, (_, j) => (i * 13 + j * 29) % 67)
  const labels = tokens.map((token, j) => (j < 2 ? -100 : token))
  return { tokens, labels, source: `data.jsonl:${i + 1}` }
})

let model: Model
beforeAll(async () => {
  model = await Model.load(directory, { device: 'cpu', dtype: 'f32', threads: 1 })
})
afterAll(() => model.dispose())

const base: TrainerOptions = {
  method: s2ft({ ratios: { down: 0.1, o: 0.25, q: 0.25 }, seed: 3 }),
  learningRate: 1e-2,
  batchSize: 2,
  gradientAccumulationSteps: 2,
  numTrainEpochs: 3,
  warmupSteps: 2,
  lrScheduler: 'cosine',
}

async function fit(
  options: Partial<TrainerOptions>,
  how: { stopAt?: number; resume?: boolean | string; data?: SampleInput[] } = {},
): Promise<TrainEvent[]> {
  const trainer = new Trainer(model, { ...base, ...options })
  const abort = new AbortController()
  const events: TrainEvent[] = []
  try {
    const { resume = false, data = samples, stopAt } = how
    for await (const event of trainer.fit(data, { signal: abort.signal, resume })) {
      events.push(event)
      if (event.type === 'step' && event.step === stopAt) abort.abort()
    }
  } finally {
    await trainer.dispose()
  }
  return events
}

const steps = (events: TrainEvent[]) => events.filter((event) => event.type === 'step')
const bytes = (folder: string, name = 'adapter_model.safetensors') =>
  readFileSync(join(folder, name)).toString('base64')

describe('events', () => {
  test('plan first, every step, end last; the loss falls', async () => {
    const events = await fit({})
    const [plan] = events
    expect(plan).toMatchObject({ type: 'plan', totalSteps: 9, stepsPerEpoch: 3, samples: 11 })
    const losses = steps(events)
    expect(losses.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9])
    expect(losses[0]!.learningRate).toBe(0)
    expect(losses.at(-1)!.loss).toBeLessThan(losses[0]!.loss)
    expect(losses[2]!.epoch).toBe(1)
    expect(losses[3]!.epoch).toBeCloseTo(4 / 3)
    expect(events.at(-1)).toMatchObject({ type: 'end', step: 9, epoch: 3 })
  })

  test('evaluation during and after training', async () => {
    const events = await fit({ evalSteps: 4, evalDataset: samples.slice(0, 5) })
    const evaluations = events.filter((event) => event.type === 'eval')
    expect(evaluations.map(({ step }) => step)).toEqual([4, 8, 9])
    expect(evaluations[2]!.loss).toBeLessThan(evaluations[0]!.loss)
  })

  test('a learning rate of 0 leaves the evaluation at the base model', async () => {
    const trainer = new Trainer(model, { ...base, learningRate: 0 })
    const before = await model.loss(samples)
    await trainer.step(samples.slice(0, 3))
    expect((await trainer.evaluate(samples)).loss).toBeCloseTo(before.loss, 5)
    await trainer.dispose()
  })
})

describe.each([
  ['s2ft', base.method],
  ['s2ft by gradient', s2ft({ selection: 'gradient', calibrationShare: 0.3, allocation: [1, 2] })],
  ['lora', lora({ r: 2, dropout: 0.2, seed: 5 })],
  ['dora', dora({ r: 2, dropout: 0.2, seed: 5 })],
  ['sparse', sparse({ share: 0.1, selection: 'fisher', calibrationShare: 0.3 })],
  ['lisa', lisa({ layers: 1, interval: 2, seed: 5 })],
  ['galore', galore({ r: 4, updateInterval: 3 })],
  ['full', full()],
])('%s: stop and resume', (name, method) => {
  test('gives the same result, byte for byte, as a run without a stop', async () => {
    const adapter = !['full', 'lisa', 'galore'].includes(name)
    const weights = adapter ? 'adapter_model.safetensors' : 'model.safetensors'
    const run = async (options: Partial<TrainerOptions>, how = {}) => {
      // Full fine-tuning, LISA and GaLore leave their weights in the model: every run starts from the files.
      const fresh = await Model.load(directory, { device: 'cpu', dtype: 'f32', threads: 1 })
      const kept = model
      model = fresh
      try {
        return await fit({ ...options, method }, how)
      } finally {
        model = kept
        await fresh.dispose()
      }
    }
    const whole = temporaryDirectory()
    const parts = temporaryDirectory()
    const expected = steps(await run({ outputDir: whole }))
    const first = await run({ outputDir: parts, saveSteps: 2 }, { stopAt: 5 })
    expect(first.at(-1)).toMatchObject({
      type: 'interrupted',
      step: 5,
      path: join(parts, 'checkpoint-5'),
    })
    const second = await run({ outputDir: parts, saveSteps: 2 }, { resume: true })
    const losses = [...steps(first), ...steps(second)]
    expect(losses.map(({ loss, learningRate }) => ({ loss, learningRate }))).toEqual(
      expected.map(({ loss, learningRate }) => ({ loss, learningRate })),
    )
    expect(bytes(parts, weights)).toBe(bytes(whole, weights))
    const logged = readFileSync(join(parts, 'metrics.jsonl'), 'utf8').trim().split('\n')
    expect(logged.map((line) => JSON.parse(line).step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9])
  })
})

describe('checkpoints', () => {
  test('the limit keeps the newest, and leftovers of killed runs go', async () => {
    const output = temporaryDirectory()
    mkdirSync(join(output, '.checkpoint-2.tmp-1-abcd'))
    mkdirSync(join(output, '.checkpoint-1.trash-1-abcd'))
    const events = await fit({ outputDir: output, saveSteps: 2, saveTotalLimit: 2 })
    const saved = events.filter((event) => event.type === 'checkpoint').map(({ step }) => step)
    expect(saved).toEqual([2, 4, 6, 8, 9])
    expect(
      readdirSync(output)
        .filter((name) => name.includes('checkpoint'))
        .sort(),
    ).toEqual(['checkpoint-8', 'checkpoint-9'])
  })

  test('resuming from an older checkpoint cuts the metrics behind it', async () => {
    const output = temporaryDirectory()
    await fit({ outputDir: output, saveSteps: 3 })
    const final = bytes(output)
    const events = await fit(
      { outputDir: output, saveSteps: 3 },
      { resume: join(output, 'checkpoint-3') },
    )
    expect(steps(events)[0]!.step).toBe(4)
    const logged = readFileSync(join(output, 'metrics.jsonl'), 'utf8').trim().split('\n')
    expect(logged).toHaveLength(9)
    expect(bytes(output)).toBe(final)
  })

  test('resume without a checkpoint starts from the beginning and says so', async () => {
    const events = await fit({ outputDir: temporaryDirectory() }, { resume: true })
    expect(events[0]).toMatchObject({ type: 'warning' })
    expect(steps(events)).toHaveLength(9)
  })

  test('a fresh run does not mix with an earlier one', async () => {
    const output = temporaryDirectory()
    await fit({ outputDir: output, saveSteps: 4 })
    const error = await rejection(() => fit({ outputDir: output }))
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toContain('checkpoint-9')
    await fit({ outputDir: output, overwriteOutputDir: true })
    expect(existsSync(join(output, 'checkpoint-9'))).toBe(false)
  })

  test.each<[string, Partial<TrainerOptions>, SampleInput[] | undefined]>([
    ['learningRate', { learningRate: 1e-3 }, undefined],
    ['method', { method: s2ft({ ratios: { down: 0.1, o: 0.25, q: 0.25 }, seed: 4 }) }, undefined],
    ['batchSize', { batchSize: 3, numTrainEpochs: 4 }, undefined],
    ['data', {}, samples.toReversed()],
  ])('another %s is refused', async (option, change, data) => {
    const output = temporaryDirectory()
    await fit({ outputDir: output }, { stopAt: 2 })
    const error = await rejection(() =>
      fit({ outputDir: output, ...change }, { resume: true, ...(data ? { data } : {}) }),
    )
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toContain(`${option}: expected`)
  })

  test.each(['trainer_state.json', 'optimizer.safetensors'])('a broken %s', async (name) => {
    const output = temporaryDirectory()
    await fit({ outputDir: output }, { stopAt: 2 })
    const file = join(output, 'checkpoint-2', name)
    writeFileSync(file, readFileSync(file).subarray(0, 40))
    const error = await rejection(() => fit({ outputDir: output }, { resume: true }))
    expect(error.code).toBe('CORRUPT_FILE')
    expect(error.message).toContain(name)
  })
})

describe('refusals', () => {
  test('a plan larger than the memory limit, with its parts', async () => {
    const error = await rejection(() => fit({ memoryLimit: 1000 }))
    expect(error.code).toBe('OUT_OF_MEMORY')
    expect(error.message).toContain('activations')
  })

  test('a sample without a trained token, by its source', async () => {
    const data = [...samples, { tokens: [1, 2], labels: [-100, -100], source: 'data.jsonl:12' }]
    const error = await rejection(() => fit({}, { data }))
    expect(error.code).toBe('INVALID_DATA')
    expect(error.message).toContain('data.jsonl:12')
  })

  test('a loss that is not finite, by step and sample; the last checkpoint stays', async () => {
    const output = temporaryDirectory()
    const options = { outputDir: output, saveSteps: 1, learningRate: 1e30, lrScheduler: 'constant' }
    const change = { ...options, maxGradNorm: 0, warmupSteps: 0 } as Partial<TrainerOptions>
    const error = await rejection(() => fit(change))
    expect(error.code).toBe('NOT_FINITE')
    expect(error.message).toMatch(/step \d+, data\.jsonl:\d+/)
    expect(readdirSync(output)).toContain('checkpoint-1')
  })

  test('one run at a time, and no step beside it', async () => {
    const trainer = new Trainer(model, base)
    const events = trainer.fit(samples)
    await events.next()
    expect((await rejection(() => trainer.step(samples.slice(0, 1)))).code).toBe('BUSY')
    expect((await rejection(() => trainer.fit(samples).next())).code).toBe('BUSY')
    await events.next()
    expect((await trainer.adapter()).info.type).toBe('s2ft')
    await events.return()
    await trainer.dispose()
    expect((await rejection(() => trainer.step(samples))).code).toBe('DISPOSED')
  })

  test('a second trainer of the same model', async () => {
    const first = new Trainer(model, base)
    await first.step(samples.slice(0, 2))
    const second = new Trainer(model, base)
    expect((await rejection(() => second.step(samples))).code).toBe('BUSY')
    await first.dispose()
    expect((await second.step(samples)).step).toBe(1)
    await second.dispose()
  })

  test.each<[string, object]>([
    ['learningRate', { learningRate: -1 }],
    ['lrScheduler', { lrScheduler: 'step' }],
    ['evalSteps', { evalSteps: 2 }],
    ['saveSteps', { saveSteps: 2 }],
    ['method', { method: { kind: 'prompt' } }],
    ['"learning_rate"', { learning_rate: 1 }],
  ])('option %s', async (name, change) => {
    const error = await rejection(() => new Trainer(model, { ...base, ...change }))
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toContain(name)
  })
})
