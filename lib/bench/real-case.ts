// One case of `s2ft bench real` in a process of its own: trains as a user does, on samples from
// a file, and prints one JSON line.
import { readFile } from 'node:fs/promises'
import { Model, Trainer } from '../index.js'
import { native } from '../native/load.js'
import type { CaseResult } from './case.js'
import { type MethodSpec, methodOf } from './method.js'
import { computedPositions, type RealSample } from './real-data.js'

/** What a child process is asked to measure; bench/peer/real.py reads the same. */
export interface RealSpec extends MethodSpec {
  model: string
  /** File of RealSamples: those to warm up with first, in the order of training. */
  samples: string
  /** The sample that the first timed step begins with. */
  timedFrom: number
  dtype: 'bf16' | 'f32'
  device: 'cpu' | 'cuda' | 'auto'
  arithmetic: 'auto' | 'native' | 'widen'
  batch: number
  /** Steps before the timed ones. */
  warmup: number
  threads: number
  learningRate: number
}

/** What it answers. `seconds` are those of steps of different lengths. */
export interface RealResult extends CaseResult {
  lossFirst: number
  loss: number
  /** Rows computed in the timed steps, with what is padding. */
  positions: number
}

async function measure(spec: RealSpec): Promise<RealResult> {
  const samples = JSON.parse(await readFile(spec.samples, 'utf8')) as RealSample[]
  const { device, dtype, threads, arithmetic, batch, learningRate } = spec
  await using model = await Model.load(spec.model, { device, dtype, threads, arithmetic })
  await using trainer = new Trainer(model, {
    method: methodOf(spec),
    batchSize: batch,
    maxSteps: Math.ceil(samples.length / batch),
    learningRate,
    lrScheduler: 'constant',
    maxGradNorm: 0,
    // The file has the order that shuffling gave.
    shuffle: false,
  })
  const seconds: number[] = []
  const losses: number[] = []
  let trainable = 0
  let positions = 0
  for await (const event of trainer.fit(samples)) {
    if (event.type === 'plan') {
      trainable = event.trainableParameters
      ;(globalThis as { gc?: () => void }).gc?.()
      native().resetPeakMemory()
    }
    if (event.type !== 'step') continue
    losses.push(event.loss)
    if (event.step <= spec.warmup) continue
    seconds.push(event.seconds)
    positions += computedPositions(event.inputTokens)
  }
  return {
    seconds,
    trainable,
    positions,
    peakBytes: native().peakMemory() || null,
    device: model.device,
    threads: model.threads,
    lossFirst: losses[0]!,
    loss: losses.at(-1)!,
  }
}

process.stdout.write(`${JSON.stringify(await measure(JSON.parse(process.argv[2]!) as RealSpec))}\n`)
