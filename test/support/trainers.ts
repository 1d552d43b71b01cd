// Trainers set up as a golden run says, and what they hand out.
import { join } from 'node:path'
import { Adapter, dora, full, galore, lora, type Model, s2ft, Trainer } from '../../lib/index.js'
import { expectedTensor, type GoldenCase, type GoldenRun, relativeError } from './golden.js'

export function s2ftTrainer(model: Model, run: GoldenRun): Trainer {
  return new Trainer(model, { method: s2ft({ select: run.select!, seed: 0 }), ...run.options })
}

/** Full fine-tuning or GaLore. */
export function fullTrainer(model: Model, run: GoldenRun): Trainer {
  const method = run.method === 'galore' ? galore(run.galore) : full()
  return new Trainer(model, { method, ...run.options })
}

/** LoRA or DoRA, started from the run's adapter, where B is not zero. */
export async function loraTrainer(
  model: Model,
  golden: GoldenCase,
  run: GoldenRun,
): Promise<Trainer> {
  const adapter = await Adapter.load(join(golden.directory, run.init!))
  const method = run.method === 'dora' ? dora(run.lora) : lora(run.lora)
  return new Trainer(model, { method, initialAdapter: adapter, ...run.options })
}

/** Runs a golden run's steps and returns how far losses and gradient norms are from the expected. */
export async function trainAsExpected(trainer: Trainer, golden: GoldenCase, run: GoldenRun) {
  const losses: number[] = []
  const gradNorms: number[] = []
  const learningRates: number[] = []
  const trainedTokens: number[] = []
  for (const step of run.steps) {
    const batches = step.map((index) => golden.batches[index]!)
    const result = await trainer.step(batches.length === 1 ? batches[0]! : batches)
    losses.push(result.loss)
    gradNorms.push(result.gradNorm)
    learningRates.push(result.learningRate)
    trainedTokens.push(result.tokens)
  }
  const error = (curve: string, actual: number[]) =>
    relativeError(actual, expectedTensor(golden, `run.${run.name}.${curve}`).values)
  return {
    losses: error('losses', losses),
    gradNorms: error('gradNorms', gradNorms),
    learningRates: error('learningRates', learningRates),
    trainedTokens,
  }
}

/** Trained positions of the batches that a step accumulates. */
export function countTrained(golden: GoldenCase, step: number[]): number {
  return step
    .flatMap((index) => golden.batches[index]!)
    .reduce((sum, { labels }) => sum + labels.subarray(1).filter((l) => l !== -100).length, 0)
}

type Tensors = Adapter['tensors']
type Tensor = Tensors extends ReadonlyMap<string, infer T> ? T : never

/** A tensor of an adapter; throws with the names there are. */
export function tensorOf(tensors: Tensors, name: string): Tensor {
  const tensor = tensors.get(name)
  if (!tensor) throw new Error(`no tensor ${name} among ${[...tensors.keys()].join(', ')}`)
  return tensor
}

/** The values of an F32 or BF16 tensor, whose bits travel as a Uint16Array. */
export function valuesIn({ dtype, data }: Tensor): Float32Array {
  if (dtype === 'BF16') {
    return new Float32Array(Uint32Array.from(data as Uint16Array, (bits) => bits << 16).buffer)
  }
  if (dtype !== 'F32') throw new Error(`expected F32 or BF16, found ${dtype}`)
  return data as Float32Array
}
