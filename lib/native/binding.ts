// What the native addon offers, typed. Only lib/native and the classes that wrap a handle
// import this; users never see it. Every promise rejects with an S2FTError.

import type { NativeDecoder } from './decoder-binding.js'

export type DType = 'f32' | 'bf16'
/** Element types of safetensors files that the package writes or reads into memory. */
export type TensorDType = 'F32' | 'BF16' | 'F16' | 'I32'
/** How frozen linear weights are stored; nf4 with double quantization. */
export type Quantization = 'int8' | 'nf4'
export type Recompute = 'none' | 'selective' | 'block'

/** One tensor outside the engine; BF16 and F16 travel as their bits. */
export interface Tensor {
  dtype: TensorDType
  shape: number[]
  data: Float32Array | Int32Array | Uint16Array
}

export interface NativeRope {
  type: 'default' | 'linear' | 'dynamic' | 'llama3'
  theta: number
  factor: number
  lowFreqFactor: number
  highFreqFactor: number
  originalMaxPositions: number
}

/** A validated config.json, with defaults filled in (lib/model/config.ts makes it). */
export interface NativeModelConfig {
  vocabSize: number
  hiddenSize: number
  intermediateSize: number
  layers: number
  heads: number
  kvHeads: number
  headDim: number
  normEpsilon: number
  tieWordEmbeddings: boolean
  qkvBias: boolean
  oBias: boolean
  mlpBias: boolean
  /** Qwen3: RMS norm over every head of q and k, before rotation. */
  qkNorm: boolean
  /** Per layer; 0 means unlimited. */
  slidingWindow: number[]
  rope: NativeRope
}

export interface NativeModelSpec {
  config: NativeModelConfig
  /** Safetensors files; tensors are found by their checkpoint names. */
  files: string[]
  dtype: DType
  quantize: Quantization | 'none'
  device: 'cpu' | 'cuda' | 'auto'
  /** 0: all CPUs of this process. */
  threads: number
  arithmetic: 'auto' | 'native' | 'widen'
}

/** One training sample. labels[i] is the label of token i, -100 where it is not trained. */
export interface Sample {
  tokens: Int32Array
  labels: Int32Array
}

export interface NativeDevice {
  name: string
  kind: 'cpu' | 'cuda'
  /** What multiplies bf16 weights: 'bf16', 'amx' or 'f32'. */
  arithmetic: string
  isa: string
  gemm: string
  threads: number
  /** Measured by the probe, in GFLOP/s, with the chosen arithmetic. */
  peakGflops: number
  peakGflopsF32: number
  peakGflopsBf16: number
  /** CUDA only, like the two below. */
  multiprocessors?: number
  totalBytes?: number
  freeBytes?: number
}

/** A library of NVIDIA's that the CUDA backend opens at run time. */
export interface NativeCudaPiece {
  name: string
  /** Empty when it was not found. */
  path: string
  /** What it serves, and what serves without it. */
  purpose: string
  remedy: string
  /** Places where it was looked for in vain. */
  tried: string[]
}

export interface NativeCudaReport {
  /** The CUDA backend's library; empty when it could not be loaded. */
  library: string
  /** Why no device can be used; empty when one can. */
  problem: string
  tried: string[]
  /** As CUDA counts: 13000 is 13.0; 0: none. */
  driver: number
  runtime: number
  pieces: NativeCudaPiece[]
}

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

/** Rank, first and last positions of a prompt, and whether both have the same weights. */
export interface NativeLoreftShape {
  r: number
  first: number
  last: number
  shared: boolean
}

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

/** Memory of a device of its own, in bytes; all 0 on a CPU. */
export interface NativeDeviceMemory {
  total: number
  /** By every process. */
  used: number
  /** By this model and its trainers and decoders. */
  held: number
  /** The most held since it was last reset. */
  peak: number
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

/** A slice change in original indices, as the adapter file stores it. */
export interface NativeDelta {
  /** E.g. model.layers.0.mlp.down_proj */
  module: string
  axis: 'rows' | 'cols'
  index: Int32Array
  /** rows: [s, in]; cols: [out, s]. */
  delta: Float32Array
}

/** A change of single elements. */
export interface NativeElements {
  module: string
  /** row * in + column, ascending. */
  places: Int32Array
  delta: Float32Array
}

export interface NativeLora {
  module: string
  r: number
  /** [r, in] */
  a: Float32Array
  /** [out, r] */
  b: Float32Array
  /** alpha / r, or alpha / sqrt(r). */
  scale: number
  /** DoRA [out]: lengths of the rows of W + scale B A. */
  magnitudes?: Float32Array
}

/** A change of the residual stream behind a layer. */
export interface NativeLoreft extends NativeLoreftShape {
  layer: number
  /** One, or with `shared` false and both kinds of positions the prefix's and the suffix's. */
  sets: {
    /** R [r, hidden] */
    rotation: Float32Array
    /** W [r, hidden] */
    source: Float32Array
    /** b [r] */
    bias: Float32Array
  }[]
}

/** What an adapter changes. */
export interface NativeAdapter {
  deltas?: NativeDelta[]
  elements?: NativeElements[]
  loras?: NativeLora[]
  lorefts?: NativeLoreft[]
}

export interface NativeModel {
  readonly bytes: number
  readonly parameters: number
  /** How bf16 products are computed; with the thread count it decides results' last bits. */
  /** 'native' or 'widen' on a CPU; what multiplies on CUDA. */
  readonly arithmetic: string
  readonly device: 'cpu' | 'cuda'
  /** Waits for work in flight; `reset` begins a new peak. */
  deviceMemory(reset?: boolean): Promise<NativeDeviceMemory>
  readonly threads: number
  /** Names, file dtypes and shapes in checkpoint order, for saving. */
  tensors(): { name: string; dtype: TensorDType; shape: number[] }[]
  /** [tokens * vocab]; to a LoReFT adapter all tokens are the prompt. */
  logits(tokens: Int32Array): Promise<Float32Array>
  /**
   * For each sample, log p(tokens[i+1] | tokens[..i]) at [i]; 0 where the label is -100. With
   * candidates, a list a sample, log p(candidate | tokens) of each follows.
   */
  score(batch: Sample[], candidates?: Int32Array[]): Promise<Float32Array[]>
  /** `pageTokens` is a multiple of 16. */
  createDecoder(pages: number, pageTokens: number): Promise<NativeDecoder>
  createTrainer(spec: NativeTrainerSpec): Promise<NativeTrainer>
  /** Adds an adapter; the original slices are kept, so unfuse(id) is bit-exact in any order. */
  fuse(id: string, adapter: NativeAdapter): Promise<void>
  unfuse(id: string): Promise<void>
  /** Takes adapters out and puts one in, in one go; all is as before where it fails. */
  replace(out: string[], id: string, adapter: NativeAdapter): Promise<void>
  /** Writes the named tensors, in base order, converted to `dtype` per tensor; atomic. */
  save(
    path: string,
    tensors: { name: string; dtype: TensorDType }[],
    metadata: Record<string, string>,
  ): Promise<void>
  /** Hash over names, shapes and bytes of the base weights (hex, 64 characters or fewer). */
  fingerprint(): Promise<string>
  /** Waits for work in flight; idempotent. */
  dispose(): Promise<void>
}

/** Sizes of one transformer block, for timing single operations. */
export interface NativeOpsSpec {
  group: 'copy' | 'products' | 'attention' | 'elementwise' | 'method'
  dtype: DType
  threads: number
  arithmetic: 'auto' | 'native' | 'widen'
  tokens: number
  hidden: number
  intermediate: number
  heads: number
  kvHeads: number
  headDim: number
  vocab: number
  channels: number
  rank: number
  /** Time for an operation; at least five rounds. */
  seconds: number
}

export interface NativeOpTiming {
  op: string
  /** Of one run; 0 where memory is the limit. */
  flops: number
  /** Operands read and results written, once each. */
  bytes: number
  /** Of one run, an entry a round; operations of a group share their rounds. */
  seconds: number[]
}

/** Square weights whose fused adapter is exchanged. */
export interface NativeSwitchSpec {
  width: number
  dtype: DType
  threads: number
  arithmetic: 'auto' | 'native' | 'widen'
  /** So many of them one after another: more than the caches hold. */
  weights: number
  methods: NativeSwitchMethod[]
  rank: number
  /** Rows or columns of an S²FT slice. */
  channels: number
  rounds: number
}

export type NativeSwitchMethod = 's2ft-rows' | 's2ft-cols' | 'lora'

/** Seconds for one weight, an entry a round; methods share their rounds. */
export interface NativeSwitchTiming {
  method: NativeSwitchMethod
  parameters: number
  /** What is kept of the base while an adapter is in, for one weight. */
  keptBytes: number
  fuse: number[]
  switch: number[]
  unfuse: number[]
}

/** A square linear layer beside which adapters are resident. */
export interface NativeLayerSpec {
  width: number
  dtype: DType
  threads: number
  arithmetic: 'auto' | 'native' | 'widen'
  method: NativeSwitchMethod
  adapters: number
  /** Rows, each with an adapter of its own. */
  batch: number
  /** LoRA's rank, or rows or columns of an S²FT slice. */
  k: number
  rounds: number
  /** Batches of a round, each with other adapters. */
  passes: number
}

export interface NativeLayerTiming {
  /** Of one adapter. */
  parameters: number
  /** What the process holds more with all adapters than without. */
  residentBytes: number
  /** Of one batch, the median of a round's, an entry a round. */
  seconds: number[]
  /** The part of it that adapters take. */
  adapterSeconds: number[]
}

/** A row-major matrix outside the engine; data holds rows * cols values. */
export interface Matrix {
  data: Float32Array
  rows: number
  cols: number
}

export interface NativeBinding {
  /** Must equal the package version. */
  readonly version: string
  /** Starts MPI, once a process; `folder` holds libs2ft_mpi. Rejects with UNSUPPORTED. */
  startJob(folder: string, timeout: number): Promise<NativeJob>
  devices(threads: number): Promise<NativeDevice[]>
  cudaReport(): Promise<NativeCudaReport>
  loadModel(spec: NativeModelSpec): Promise<NativeModel>
  readSafetensors(
    path: string,
  ): Promise<{ tensors: Record<string, Tensor>; metadata: Record<string, string> }>
  writeSafetensors(
    path: string,
    tensors: Record<string, Tensor>,
    metadata: Record<string, string>,
  ): Promise<void>
  permute(matrix: Matrix, order: Int32Array, axis: 'rows' | 'cols'): Promise<Matrix>
  linearForward(x: Matrix, weight: Matrix): Promise<Matrix>
  linearBackward(
    dy: Matrix,
    weight: Matrix,
    x: Matrix,
    slice: { axis: 'rows' | 'cols'; begin: number; count: number },
  ): Promise<{ dx: Matrix; dw: Matrix }>
  adamw(
    state: {
      value: Float32Array
      gradient: Float32Array
      first: Float32Array
      second: Float32Array
    },
    options: {
      learningRate: number
      beta1: number
      beta2: number
      epsilon: number
      weightDecay: number
      step: number
    },
  ): Promise<{ value: Float32Array; first: Float32Array; second: Float32Array }>
  benchOps(spec: NativeOpsSpec): Promise<NativeOpTiming[]>
  benchLayer(spec: NativeLayerSpec): Promise<NativeLayerTiming>
  /** Throws INTERNAL where unfusing did not give the base's bits back. */
  benchSwitch(spec: NativeSwitchSpec): Promise<NativeSwitchTiming[]>
  /** VmHWM reset and read, in bytes; 0 where the system does not tell. */
  resetPeakMemory(): void
  peakMemory(): number
}
