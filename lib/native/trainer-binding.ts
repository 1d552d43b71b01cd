// The native trainer, its methods, and what it shares with other ranks.
import type { NativeLoreftShape } from './adapter-binding.js'
import type { Recompute, Sample } from './binding.js'

export type ModuleKind = 'q' | 'k' | 'v' | 'o' | 'gate' | 'up' | 'down'

/** Selected units of one layer: heads for q, k, v, o and channels for gate, up, down. */
export type LayerSelection = Partial<Record<ModuleKind, number[]>>

export type NativeMethod =
  | {
      kind: 's2ft'
      seed: number
      /** Units a layer. */
      counts: Partial<Record<ModuleKind, number>>[]
      selection: 'random' | 'weight' | 'activation' | 'weight-activation' | 'gradient'
      order: 'largest' | 'smallest'
      /** Units a layer that must not be taken. */
      avoid?: LayerSelection[]
    }
  | { kind: 's2ft'; seed: number; select: LayerSelection[] }
  | {
      kind: 'lora' | 'dora'
      seed: number
      dropout: number
      /** Full names, e.g. model.layers.0.mlp.down_proj; scale is alpha / r or alpha / sqrt(r). */
      modules: { name: string; r: number; scale: number }[]
    }
  | {
      kind: 'sparse'
      seed: number
      share: number
      selection: 'random' | 'weight' | 'gradient' | 'fisher'
      modules: string[]
    }
  | { kind: 'galore'; seed: number; r: number; scale: number; interval: number }
  | ({ kind: 'loreft'; seed: number; layers: Int32Array; dropout: number } & NativeLoreftShape)
  | { kind: 'lisa'; seed: number; layers: number; interval: number }
  | { kind: 'full' }

export interface NativeTrainerSpec {
  method: NativeMethod
  beta1: number
  beta2: number
  epsilon: number
  weightDecay: number
  /** 0: no clipping. */
  maxGradNorm: number
  recompute: Recompute
  /** The trainer is that of one of several ranks. */
  job?: NativeJob
}

/** One of several ranks; see Job of lib/distributed/job.ts. */
export interface NativeJob {
  readonly rank: number
  readonly size: number
  readonly library: string
  /** Among the ranks of this host. */
  readonly hostRank: number
  readonly hostSize: number
  /** CPUs that this rank should use, that the launcher lets the host's ranks use, of the host. */
  readonly cpus: number
  readonly boundCpus: number
  readonly hostCpus: number
  /** Bytes of gradients that this rank has sent. */
  readonly bytesSent: number
  gather(text: string): Promise<string[]>
  sum(values: number[]): Promise<number[]>
  fail(message: string): Promise<void>
  /** Tells ranks that wait in waitDone(). */
  done(): Promise<void>
  /** Until that rank says done(), fails or is gone, at most the timeout. Never rejects. */
  waitDone(rank: number): Promise<void>
  finish(): Promise<void>
  abort(status: number): void
}

/**
 * One trainable parameter. `rows` and `cols` are slices of `module`'s weight; LoReFT's module is a
 * layer, or model.layers.<n>.prefix and .suffix.
 */
export interface NativeParameter {
  name: string
  module: string
  kind:
    | 'rows'
    | 'cols'
    | 'all'
    | 'bias'
    | 'lora_A'
    | 'lora_B'
    | 'lora_magnitude_vector'
    | 'sparse'
    | 'galore'
    | 'loreft_R'
    | 'loreft_W'
    | 'loreft_b'
  shape: number[]
  /**
   * Original row or column indices of a slice, in the order of the gradient; a mask's places, row *
   * in + column, ascending.
   */
  index?: Int32Array
}

export interface NativeStepResult {
  /** Mean negative log-likelihood over the trained tokens of all micro-batches. */
  loss: number
  /** Global norm before clipping. */
  gradNorm: number
  /** Trained tokens, and all tokens; with several ranks, of all of them. */
  tokens: number
  inputTokens: number
  /** A rank has called askStop(): all ranks learn it in the same step. */
  stopAsked: boolean
}

/** Bytes. `total` is what the process is predicted to hold at the peak of a step. */
export interface NativeMemoryPlan {
  weights: number
  trainable: number
  optimizer: number
  activations: number
  workspace: number
  /** What the process holds beside all of these: Node, tokenizer, data; on a GPU, what others do. */
  process: number
  total: number
  /** Bytes of a device with memory of its own; 0: the host's memory holds all of it. */
  limit: number
}

export interface NativeTrainer {
  /** LISA: those that train now; a step may exchange them. */
  parameters(): NativeParameter[]
  /** Upper bound for micro-batches of at most this many tokens, trained tokens, samples. */
  plan(tokens: number, trainedTokens: number, samples: number): Promise<NativeMemoryPlan>
  /**
   * One optimizer step over the micro-batches. Rejects with NOT_FINITE and details
   * { microBatch, sample } without touching weights, CANCELLED after cancel(). With several ranks,
   * `expectedTokens` are the trained ones of all of them, where that is known before.
   */
  step(
    microBatches: Sample[][],
    learningRate: number,
    expectedTokens?: number,
  ): Promise<NativeStepResult>
  /** Gradients of the mean loss, one entry a parameter, in parameters() order. */
  gradients(batch: Sample[]): Promise<{ loss: number; gradients: Float32Array[] }>
  /**
   * Chooses units or sparse masks by these samples where the method leaves that to data, once,
   * before the first step; nothing otherwise. Rejects with NOT_FINITE, CANCELLED.
   */
  calibrate(microBatches: Sample[][]): Promise<void>
  /** S²FT, sparse: trains at these indices, a list a parameter, as many as before. */
  setPlaces(places: Int32Array[]): Promise<void>
  /** Slices, masks: current weight minus base, f32. LoRA, DoRA: the factors. LoReFT: the weights. `all`: current values. */
  values(): Promise<Float32Array[]>
  /** The inverse of values(), in parameters() order: continues from an adapter. */
  setValues(values: Float32Array[]): Promise<void>
  /** Masters, moments, step count; written whole or not at all. */
  saveState(path: string, metadata: Record<string, string>): Promise<void>
  /** Returns the metadata. Throws CORRUPT_FILE or SHAPE_MISMATCH naming the tensor. */
  loadState(path: string): Promise<Record<string, string>>
  /**
   * Takes the tuned weights out of the model, as dispose() does; the next step puts them in
   * again.
   */
  detach(): Promise<void>
  /** Stops the step in flight at the next layer boundary. */
  cancel(): void
  /** Sets `stopAsked` in the results of the step in flight and those that follow. */
  askStop(): void
  /** Restores base weights and order; full, lisa and galore keep the tuned weights. */
  dispose(): Promise<void>
}
