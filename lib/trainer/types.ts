// What users pass to a Trainer and the events that training yields.
import type { Adapter } from '../adapter/adapter.js'
import type { Dataset, EncodeDatasetOptions } from '../data/index.js'
import type { Job } from '../distributed/job.js'
import type { Method } from '../method/types.js'
import type { SampleInput } from '../model/types.js'
import type { NativeMemoryPlan, Recompute } from '../native/binding.js'
import type { TrainingBudget } from './budget.js'

export type { TrainingBudget }

export type SchedulerName = 'linear' | 'cosine' | 'constant'

/** Meanings are Hugging Face's; defaults are stated where they differ from it. */
export interface TrainerOptions {
  method: Method
  /** Start from this adapter of the same method and base instead of from nothing. */
  initialAdapter?: Adapter
  /** Default 2e-4. */
  learningRate?: number
  /** Default 0. Decoupled; touches trainable values only. */
  weightDecay?: number
  adamBeta1?: number
  adamBeta2?: number
  adamEpsilon?: number
  /** Default 1; 0 does not clip. */
  maxGradNorm?: number
  /** Default 'linear'. `step()` without maxSteps keeps the rate constant after warm-up. */
  lrScheduler?: SchedulerName
  warmupSteps?: number
  /** Share of all steps, rounded up; used when warmupSteps is 0. */
  warmupRatio?: number
  /** Default -1: as many as numTrainEpochs gives. */
  maxSteps?: number
  /** Default 1 (Hugging Face: 3). May be a fraction. */
  numTrainEpochs?: number
  /** Samples in a micro-batch, of each rank; default 8. */
  batchSize?: number
  /** Fill micro-batches up to this many tokens instead of counting samples. */
  maxTokensPerBatch?: number
  gradientAccumulationSteps?: number
  /** Default true: a new order each epoch, decided by the seed. */
  shuffle?: boolean
  /** Order of the data (default 0); a method has its own seed. */
  seed?: number
  /** Steps between lines of metrics.jsonl; default 1. */
  loggingSteps?: number
  /** Steps between evaluations; needs evalDataset. Also evaluates after the last step. */
  evalSteps?: number
  evalDataset?: TrainingData
  /** Steps between checkpoints; 0 (default): only when interrupted. Also after the last step. */
  saveSteps?: number
  /** Newest checkpoints kept; 0 (default): all. */
  saveTotalLimit?: number
  /** Checkpoints, metrics.jsonl and the final adapter or model go here. */
  outputDir?: string
  /** Start anew in a directory that holds an earlier run: its checkpoints are removed. */
  overwriteOutputDir?: boolean
  /** Default 'selective'. */
  recompute?: Recompute
  /** Bytes this process may hold; default: what the system has available. */
  memoryLimit?: number
  /** How a Dataset is encoded: template, completionOnly, maxLength (default: the model's; text files in blocks of 1024). */
  encode?: EncodeDatasetOptions
  /**
   * Of joinJob(): train as one of several ranks. fit() divides the data; what is given to step() and
   * gradients() is this rank's part, and every rank calls them.
   */
  job?: Job | undefined
}

/** Encoded samples, or a Dataset (loadDataset) that the model's tokenizer encodes. */
export type TrainingData = readonly SampleInput[] | Dataset

export interface FitOptions {
  /** Finishes the step in flight, writes a checkpoint, ends with 'interrupted'. */
  signal?: AbortSignal
  /** true: the newest complete checkpoint of outputDir; a path: that checkpoint. */
  resume?: boolean | string
  /**
   * Resume with another thread count or bf16 arithmetic than the checkpoint's, which is refused
   * otherwise: the continuation may differ in the last bits. Default false.
   */
  allowDifferentMachine?: boolean
}

export interface StepResult {
  /** Steps done, this one included. */
  step: number
  /** Mean over the trained tokens of all micro-batches. */
  loss: number
  learningRate: number
  /** Before clipping. */
  gradNorm: number
  /** Trained tokens. */
  tokens: number
  /** All tokens, prompts included; with several ranks, like all of these, of all of them. */
  inputTokens: number
}

/** What ranks exchange, in bytes that each of them sends in a step. */
export interface Exchange {
  ranks: number
  library: string
  bytesPerStep: number
  /** If all weights trained. */
  fullBytesPerStep: number
}

export interface PlanEvent extends NativeMemoryPlan, TrainingBudget {
  type: 'plan'
  /** Bytes that the process may hold in total. */
  available: number
  totalSteps: number
  stepsPerEpoch: number
  samples: number
  /** Steps done before (resume). */
  step: number
  /** Only with several ranks. */
  distributed?: Exchange
}
export interface StepEvent extends StepResult {
  type: 'step'
  totalSteps: number
  /** Epochs done, as a fraction. */
  epoch: number
  /** inputTokens per second of this step. */
  tokensPerSecond: number
  seconds: number
  /** Bytes that this rank has sent for the step; only with several ranks. */
  bytesSent?: number
}
export interface EvalEvent {
  type: 'eval'
  step: number
  epoch: number
  loss: number
  /** Trained tokens of the evaluation data. */
  tokens: number
  seconds: number
}
export interface CheckpointEvent {
  type: 'checkpoint'
  step: number
  path: string
}
export interface WarningEvent {
  type: 'warning'
  message: string
}
/** `path` is the checkpoint to resume from; absent without an outputDir. */
export interface InterruptedEvent {
  type: 'interrupted'
  step: number
  path?: string
}
/** The last event of a run that reached its end; `path` holds the adapter or model. */
export interface EndEvent {
  type: 'end'
  step: number
  epoch: number
  seconds: number
  path?: string
}
export type TrainEvent =
  | PlanEvent
  | StepEvent
  | EvalEvent
  | CheckpointEvent
  | WarningEvent
  | InterruptedEvent
  | EndEvent
