// One benchmark case in a process of its own: reads its description from the first argument,
// times training steps, prints one JSON line.
import { Model, type Sample, Trainer } from '../index.js'
import { devices } from '../model/devices.js'
import { trainedTokens } from '../model/samples.js'
import type { NativeMemoryPlan, Quantization, Recompute } from '../native/binding.js'
import { native } from '../native/load.js'
import { availableMemory } from '../trainer/memory.js'
import { methodOf } from './method.js'
import { type BenchMethod, promptTokens } from './operations.js'

/** What a child process is asked to measure. */
export interface CaseSpec {
  model: string
  method: BenchMethod
  dtype: 'bf16' | 'f32'
  device: 'cpu' | 'cuda' | 'auto'
  /** This engine only; default 'none'. */
  quantize?: Quantization | 'none'
  /** Default 'auto'. */
  arithmetic?: 'auto' | 'native' | 'widen'
  batch: number
  sequence: number
  warmup: number
  steps: number
  threads: number
  rank: number
  channels: number
  vocabulary: number
  intermediate: number
  /** This engine only. */
  recompute?: Recompute
  /** No further step once the timed ones took this long; at least one is timed. */
  seconds?: number
  /** Measure nothing, and say so in `available`, when the plan does not fit in memory. */
  onlyIfFits?: boolean
}

/** What it answers; bench/peer/train.py prints the same, without what is optional. */
export interface CaseResult {
  /** Of every timed step. */
  seconds: number[]
  trainable: number
  /** Most memory held at once from just before the first step; null where unknown. */
  peakBytes: number | null
  /** Peak of the arithmetic used, measured in the same process. */
  peakGflops?: number
  /** The same for f32, whatever the case's element type. */
  peakGflopsF32?: number
  /** What the registers could do just then: around every timed step, one more than these. */
  gflopsAround?: number[]
  device: string
  threads: number
  /** Of the first step: that of the untrained model. */
  lossFirst?: number
  /** Of the last step; null where none was taken. */
  loss: number | null
  /** Bytes that the engine predicts the process to hold at the peak. */
  plan?: NativeMemoryPlan
  /** Resident bytes before the model was loaded, and before the first step. */
  baseBytes?: number
  startBytes?: number
  /** Bytes that the process may hold: only where the plan is above them, and nothing was run. */
  available?: number
  /** Peers only: graphs that were compiled while the clock ran. */
  compilations?: number
}

function randomTokens(count: number, vocabulary: number, seed: number): Int32Array {
  let state = seed
  return Int32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 4294967296) * vocabulary)
  })
}

const changesBase = (method: BenchMethod) => method === 'full' || method === 'lisa'

async function measure(spec: CaseSpec): Promise<CaseResult> {
  const { device, dtype, threads, batch, sequence, arithmetic = 'auto', recompute } = spec
  const { quantize = 'none' } = spec
  native()
  const baseBytes = process.memoryUsage.rss()
  await using model = await Model.load(spec.model, { device, dtype, quantize, threads, arithmetic })
  await using trainer = new Trainer(model, {
    method: methodOf(spec),
    learningRate: 1e-4,
    maxGradNorm: 0,
    ...(recompute && { recompute }),
  })
  const data = [1, 2].map((round) =>
    Array.from({ length: batch }, (_, i) => {
      const tokens = randomTokens(sequence, spec.vocabulary, 1000 * round + i)
      const prompt = promptTokens(spec.method, sequence)
      return {
        tokens,
        labels: prompt > 0 ? tokens.map((t, at) => (at < prompt ? -100 : t)) : tokens,
      }
    }),
  )
  // Making the adapter makes the engine's trainer too: set-up stays out of the peak.
  const adapter = changesBase(spec.method) ? undefined : await trainer.adapter()
  ;(globalThis as { gc?: () => void }).gc?.()
  const trained = data[0]!.reduce((sum, { labels }) => sum + trainedTokens(labels), 0)
  const plan = await trainer.plan(batch * sequence, trained, batch)
  // The plan counts a master value and a gradient, in f32, for all that trains.
  const trainable = adapter?.parameters ?? plan.trainable / 8
  const available = plan.limit || availableMemory()
  const fits = !spec.onlyIfFits || plan.total <= available
  const startBytes = process.memoryUsage.rss()
  native().resetPeakMemory()
  await model.native().deviceMemory(true)
  const { seconds, losses, gflopsAround } = fits
    ? await timeSteps(trainer, data, spec, model.device === 'cpu')
    : { seconds: [], losses: [], gflopsAround: [] }
  const onDevice = (await model.native().deviceMemory()).peak
  const peakBytes = (fits && (onDevice || native().peakMemory())) || null
  const found = await devices({ threads })
  const used = found.find((d) => d.kind === model.device)!
  return {
    seconds,
    trainable,
    peakBytes,
    peakGflops: dtype === 'f32' ? used.peakGflopsF32 : used.peakGflops,
    peakGflopsF32: used.peakGflopsF32,
    ...(gflopsAround.length > 0 && { gflopsAround }),
    device: used.kind,
    threads: used.threads,
    ...(losses.length > 0 && { lossFirst: losses[0]! }),
    loss: losses.at(-1) ?? null,
    plan,
    baseBytes,
    startBytes,
    ...(!fits && { available }),
  }
}

/** How long the registers are measured around steps of this length. */
const probeSeconds = (step: number) => Math.min(0.1, Math.max(0.01, step / 20))

async function timeSteps(
  trainer: Trainer,
  data: readonly Sample[][],
  { warmup, steps, seconds: limit = Number.POSITIVE_INFINITY, threads, dtype }: CaseSpec,
  onCpu: boolean,
): Promise<{ seconds: number[]; losses: number[]; gflopsAround: number[] }> {
  const seconds: number[] = []
  const losses: number[] = []
  const gflopsAround: number[] = []
  const probe = async (step: number) => {
    if (!onCpu) return
    gflopsAround.push(await native().currentGflops(threads, dtype === 'f32', probeSeconds(step)))
  }
  if (warmup === 0) await probe(1)
  for (let i = 0, spent = 0; i < warmup + steps && spent < limit; i++) {
    const start = performance.now()
    losses.push((await trainer.step(data[i % 2]!)).loss)
    const took = (performance.now() - start) / 1000
    if (i >= warmup) {
      seconds.push(took)
      spent += took
    }
    if (i >= warmup - 1) await probe(took)
  }
  return { seconds, losses, gflopsAround }
}

process.stdout.write(`${JSON.stringify(await measure(JSON.parse(process.argv[2]!) as CaseSpec))}\n`)
