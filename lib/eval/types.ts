// What an evaluation is given and what it answers.
import type { Dataset, TemplateName } from '../data/index.js'

export type EvalTask = 'loss' | 'choice' | 'math' | 'mmlu' | 'mt-bench'

export interface EvalOptions {
  /** Must be the template of training. */
  template: TemplateName
  /** Samples scored, or prompts decoded, at once. */
  batchSize: number
  /** Generated tokens at most (math; choice by generation; a turn of mt-bench). */
  maxNewTokens: number
  /**
   * Longest sample in tokens for `loss`: longer ones are cut and counted. Longest prompt for
   * `mmlu`: examples are left out until it fits. Default: what the model can take.
   */
  maxLength?: number
  signal?: AbortSignal
  /** Called after each batch with running figures. */
  onProgress?: (done: number, total: number, running: string) => void
  /** Called once for each kind of row that was cut, left out or too long. */
  onWarning?: (warning: string) => void
  /** Called once a sample, in an order that the data and the options decide. */
  onSample?: (sample: EvalSample) => void
  /** Samples of an interrupted evaluation of the same data with the same options, in its order. */
  done?: readonly EvalSample[]
  /** Called before scoring with how many of `done` count; what is behind them is done again. */
  onResume?: (kept: number) => void
}

/** One evaluated row; which further keys there are depends on the task. */
export interface EvalSample {
  /** Place in the data file (`loss`: among the samples made of it). */
  index: number
  source: string
  [key: string]: unknown
}

export interface LossResult {
  task: 'loss'
  /** Mean negative log-likelihood a trained token, in nats. */
  loss: number
  perplexity: number
  /** 95% interval of `loss`, samples taken as independent; without bounds for one sample. */
  interval: [number, number]
  count: number
  tokens: number
  truncated: number
  /** Rows without a token to score. */
  dropped: number
}

/** How many of how many answers are right. */
export interface Accuracy {
  accuracy: number
  /** 95% Wilson interval of `accuracy`. */
  interval: [number, number]
  correct: number
  count: number
}

export interface AccuracyResult extends Accuracy {
  task: 'choice' | 'math'
  scoring?: 'logprob' | 'generate'
}

export interface MmluResult extends Accuracy {
  task: 'mmlu'
  shots: number
  subjects: ({ subject: string } & Accuracy)[]
  /** Mean over subjects of their accuracies, and its 95% interval. */
  subjectMean: number
  subjectMeanInterval: [number, number]
  /** Questions that had to do with fewer examples, so that the prompt fits. */
  shortened: number
}

export interface MtBenchResult {
  task: 'mt-bench'
  modelId: string
  count: number
  /** Answers by category. */
  categories: Record<string, number>
}

export type EvalResult = LossResult | AccuracyResult | MmluResult | MtBenchResult

export type { Dataset }
