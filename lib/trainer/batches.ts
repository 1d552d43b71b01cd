// The order of a run's data: which micro-batches make which step, and how many steps there are.
import { packBatches } from '../data/index.js'
import { S2FTError } from '../errors.js'
import { trainedTokens } from '../model/samples.js'
import type { SourcedSample } from '../model/types.js'
import { packing, type TrainerSettings } from './options.js'

/** Epochs whose micro-batches are looked at one by one for the memory plan. */
const EXACT_EPOCHS = 20

export class RunBatches {
  readonly totalSteps: number
  readonly stepsPerEpoch: number
  private cached: { epoch: number; steps: SourcedSample[][][] } | undefined

  constructor(
    private readonly samples: readonly SourcedSample[],
    private readonly settings: TrainerSettings,
  ) {
    if (samples.length === 0) {
      throw new S2FTError('INVALID_DATA', 'expected at least one training sample, found none')
    }
    this.stepsPerEpoch = this.epoch(0).length
    this.totalSteps = settings.maxSteps > 0 ? settings.maxSteps : this.stepsOfEpochs()
  }

  /** Steps of an epoch, each a list of all ranks' micro-batches; the last step may have fewer. */
  epoch(epoch: number): SourcedSample[][][] {
    if (this.cached?.epoch === epoch) return this.cached.steps
    const { seed, shuffle, gradientAccumulationSteps, job } = this.settings
    const accumulate = gradientAccumulationSteps * (job?.size ?? 1)
    const batches = packBatches(this.samples, { ...packing(this.settings), shuffle, seed, epoch })
    const steps: SourcedSample[][][] = []
    for (let i = 0; i < batches.length; i += accumulate) {
      steps.push(batches.slice(i, i + accumulate).map(({ samples }) => samples))
    }
    this.cached = { epoch, steps }
    return steps
  }

  /** This rank's part of a step: micro-batches are dealt out one by one. */
  mine(step: SourcedSample[][]): SourcedSample[][] {
    const { job } = this.settings
    return job ? step.filter((_, i) => i % job.size === job.rank) : step
  }

  /** Micro-batches of the first epoch that hold this share of the samples, at least one. */
  calibration(share: number): SourcedSample[][] {
    const chosen: SourcedSample[][] = []
    let count = 0
    for (const batch of this.epoch(0).flat()) {
      if (count > 0 && count >= share * this.samples.length) break
      chosen.push(batch)
      count += batch.length
    }
    return chosen
  }

  private stepsOfEpochs(): number {
    const { numTrainEpochs, maxTokensPerBatch } = this.settings
    const complete = Math.floor(numTrainEpochs)
    const share = numTrainEpochs - complete
    if (maxTokensPerBatch === undefined) return Math.ceil(numTrainEpochs * this.stepsPerEpoch)
    let steps = 0
    for (let epoch = 0; epoch < complete; epoch++) steps += this.epoch(epoch).length
    return share > 0 ? steps + Math.ceil(share * this.epoch(complete).length) : steps
  }

  /** The largest micro-batch of the run: tokens, trained tokens, samples, each at its own peak. */
  largest(): { tokens: number; trained: number; samples: number } {
    const peak = { tokens: 0, trained: 0, samples: 0 }
    let steps = 0
    for (let epoch = 0; steps < this.totalSteps && epoch < EXACT_EPOCHS; epoch++) {
      for (const step of this.epoch(epoch)) {
        for (const samples of step) {
          const tokens = samples.reduce((sum, sample) => sum + sample.tokens.length, 0)
          const trained = samples.reduce((sum, { labels }) => sum + trainedTokens(labels), 0)
          peak.tokens = Math.max(peak.tokens, tokens)
          peak.trained = Math.max(peak.trained, trained)
          peak.samples = Math.max(peak.samples, samples.length)
        }
        if (++steps >= this.totalSteps) break
      }
    }
    return steps >= this.totalSteps ? peak : this.bound()
  }

  /** No order of the samples makes a larger micro-batch than the longest ones together. */
  private bound(): { tokens: number; trained: number; samples: number } {
    const { batchSize, maxTokens } = packing(this.settings)
    const sum = (values: number[]) =>
      Math.min(
        maxTokens ?? Number.POSITIVE_INFINITY,
        values
          .sort((a, b) => b - a)
          .slice(0, batchSize)
          .reduce((total, value) => total + value, 0),
      )
    const tokens = sum(this.samples.map(({ tokens }) => tokens.length))
    return {
      tokens,
      trained: sum(this.samples.map(({ labels }) => trainedTokens(labels))),
      samples: Math.min(tokens, batchSize ?? this.samples.length, this.samples.length),
    }
  }
}
