// What the native addon measures of itself: single operations, switching, a layer with adapters.
import type { DType } from './binding.js'

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
