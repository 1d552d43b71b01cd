// Mean loss over the completions of a data set.
import { type Dataset, describeReport, encodeDataset, trainedTokens } from '../data/index.js'
import { S2FTError } from '../errors.js'
import type { Model } from '../model/model.js'
import { meanLossInterval } from './interval.js'
import type { EvalOptions, LossResult } from './types.js'

/** Scores every sample's trained tokens. Throws INVALID_DATA when nothing can be scored. */
export async function evaluateLoss(
  model: Model,
  dataset: Dataset,
  options: EvalOptions,
): Promise<LossResult> {
  const { samples, report } = await encodeDataset(dataset, await model.tokenizer(), {
    template: options.template,
    ...(options.maxLength && { maxLength: options.maxLength }),
  })
  for (const warning of describeReport(report)) options.onWarning?.(warning)
  // Neighbours of like length make batches of like cost; results do not depend on the order.
  const order = [...samples].sort((a, b) => b.tokens.length - a.tokens.length)
  const scored: { lossSum: number; tokens: number }[] = []
  for (let i = 0; i < order.length; i += options.batchSize) {
    if (options.signal?.aborted) throw new S2FTError('CANCELLED', 'the evaluation was cancelled')
    const batch = order.slice(i, i + options.batchSize)
    const rows = await model.scoreBatch(batch)
    for (const [k, row] of rows.entries()) {
      const lossSum = -row.reduce((sum, value) => sum + value, 0)
      const tokens = trainedTokens(batch[k]!)
      scored.push({ lossSum, tokens })
      options.onSample?.({ source: batch[k]!.source, loss: lossSum / tokens, tokens })
    }
    options.onProgress?.(scored.length, order.length, `loss ${mean(scored).toFixed(4)}`)
  }
  const loss = mean(scored)
  return {
    task: 'loss',
    loss,
    perplexity: Math.exp(loss),
    interval: meanLossInterval(scored),
    count: scored.length,
    tokens: scored.reduce((sum, s) => sum + s.tokens, 0),
    truncated: report.truncated,
    dropped: report.read - report.kept,
  }
}

function mean(scored: readonly { lossSum: number; tokens: number }[]): number {
  let loss = 0
  let tokens = 0
  for (const sample of scored) {
    loss += sample.lossSum
    tokens += sample.tokens
  }
  return loss / tokens
}
