// Mean loss over the completions of a data set.
import {
  type Dataset,
  defaultMaxLength,
  describeReport,
  encodeDataset,
  trainedTokens,
} from '../data/index.js'
import type { Model } from '../model/model.js'
import { meanLossInterval } from './interval.js'
import type { EvalOptions, EvalSample, LossResult } from './types.js'
import { evaluateUnits, fileOrder, type Running } from './units.js'

/** What is counted of a sample. */
interface Scored {
  lossSum: number
  tokens: number
}

class RunningLoss implements Running {
  private readonly sum = { lossSum: 0, tokens: 0 }

  add(sample: EvalSample): void {
    const { lossSum, tokens } = sample as unknown as Scored
    this.sum.lossSum += lossSum
    this.sum.tokens += tokens
  }

  text(): string {
    return `loss ${(this.sum.lossSum / this.sum.tokens).toFixed(4)}`
  }
}

/**
 * Scores every sample's trained tokens, of at most `maxLength` (default: as in training, what the
 * model can take). Throws INVALID_DATA when nothing can be scored, NOT_FINITE for a
 * model that answers with no numbers.
 */
export async function evaluateLoss(
  model: Model,
  dataset: Dataset,
  options: EvalOptions,
): Promise<LossResult> {
  const { samples, report } = await encodeDataset(dataset, await model.tokenizer(), {
    template: options.template,
    maxLength: options.maxLength ?? defaultMaxLength(dataset, model.config.maxPositionEmbeddings),
  })
  for (const warning of describeReport(report)) options.onWarning?.(warning)
  // Neighbours of like length make batches of like cost.
  const length = (i: number) => samples[i]!.tokens.length
  const units = {
    order: fileOrder(samples.length).sort((a, b) => length(b) - length(a)),
    size: options.batchSize,
    running: new RunningLoss(),
    evaluate: async (indices: number[], finished: (sample: EvalSample) => void) => {
      const rows = await model.scoreBatch(indices.map((i) => samples[i]!))
      for (const [k, row] of rows.entries()) {
        const index = indices[k]!
        const lossSum = -row.reduce((sum, value) => sum + value, 0)
        const tokens = trainedTokens(samples[index]!)
        finished({ index, source: samples[index]!.source, loss: lossSum / tokens, tokens, lossSum })
      }
    },
  }
  const scored = (await evaluateUnits(units, options)) as unknown as Scored[]
  const tokens = scored.reduce((sum, sample) => sum + sample.tokens, 0)
  const loss = scored.reduce((sum, sample) => sum + sample.lossSum, 0) / tokens
  return {
    task: 'loss',
    loss,
    perplexity: Math.exp(loss),
    interval: meanLossInterval(scored),
    count: scored.length,
    tokens,
    truncated: report.truncated,
    dropped: report.read - report.kept,
  }
}
