// What an evaluation is given and what it answers.
import type { Dataset, TemplateName } from '../data/index.js'

export type EvalTask = 'loss' | 'choice' | 'math'

export interface EvalOptions {
  /** Must be the template of training. */
  template: TemplateName
  /** Samples scored, or prompts decoded, at once. */
  batchSize: number
  /** Generated tokens at most (math; choice by generation). */
  maxNewTokens: number
  /** Longest sample in tokens for `loss`; longer ones are cut and counted. */
  maxLength?: number
  signal?: AbortSignal
  /** Called after each batch with running figures. */
  onProgress?: (done: number, total: number, running: string) => void
  /** Called before scoring, once for each kind of row that was cut or left out. */
  onWarning?: (warning: string) => void
  /** Called once a sample, in order of finishing. */
  onSample?: (sample: EvalSample) => void
}

/** One evaluated row; which keys there are depends on the task. */
export interface EvalSample {
  source: string
  [key: string]: unknown
}

export interface LossResult {
  task: 'loss'
  /** Mean negative log-likelihood a trained token, in nats. */
  loss: number
  perplexity: number
  /** 95% interval of `loss`, samples taken as independent. */
  interval: [number, number]
  count: number
  tokens: number
  truncated: number
  /** Rows without a token to score. */
  dropped: number
}

export interface AccuracyResult {
  task: 'choice' | 'math'
  scoring?: 'logprob' | 'generate'
  accuracy: number
  /** 95% Wilson interval of `accuracy`. */
  interval: [number, number]
  correct: number
  count: number
}

export type { Dataset }
