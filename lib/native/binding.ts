// What the native addon offers, typed. Only lib/native and the classes that wrap a handle
// import this; users never see it. Every promise rejects with an S2FTError.

import type { NativeAdapter } from './adapter-binding.js'
import type {
  NativeLayerSpec,
  NativeLayerTiming,
  NativeOpsSpec,
  NativeOpTiming,
  NativeSwitchSpec,
  NativeSwitchTiming,
} from './bench-binding.js'
import type { NativeDecoder } from './decoder-binding.js'
import type { NativeCudaReport, NativeDevice, NativeDeviceMemory } from './device-binding.js'
import type { NativeJob, NativeTrainer, NativeTrainerSpec } from './trainer-binding.js'

export type * from './adapter-binding.js'
export type * from './bench-binding.js'
export type * from './device-binding.js'
export type * from './trainer-binding.js'

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
  /** GFLOP/s of the CPU during about `seconds` from now on, whatever else it is busy with. */
  currentGflops(threads: number, f32: boolean, seconds: number): Promise<number>
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
