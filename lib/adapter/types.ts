// What an adapter says about itself.
import type { ModuleKind, Quantization, Tensor } from '../native/binding.js'
import type { Adapter } from './adapter.js'
import type { Allocation, SelectionOrder, SelectionStrategy } from './selection.js'

export type { Tensor }

export interface S2ftSlice {
  /** As in the checkpoint: model.layers.0.mlp.down_proj */
  module: string
  /** rows: [count, in] of the output; cols: [out, count] of the input. */
  axis: 'rows' | 'cols'
  count: number
}

export interface S2ftAdapterInfo {
  type: 's2ft'
  /** The base model's directory or hub name. */
  baseModel: string
  /** Hash of the base weights; hex. */
  baseFingerprint: string
  slices: S2ftSlice[]
  selection: S2ftSelection
  seed: number
  /** Sizes that the indices are read by; absent in adapters of early versions. */
  units?: S2ftUnits
  /** How the base was stored while this was trained; absent: in full. */
  quantization?: Quantization
}

/** How the units were chosen. */
export interface S2ftSelection {
  strategy: SelectionStrategy | 'explicit'
  /** Which end of the scores; not of random and explicit. */
  order?: SelectionOrder
  /** Share of the training data that scores come from. */
  share?: number
  allocation?: Allocation
  ratios?: Partial<Record<ModuleKind, number>>
  /** The budget, where one was given instead of ratios. */
  lora_rank?: number
}

/** Layers of the base, and the selectable units of each. */
export interface S2ftUnits {
  layers: number
  heads: number
  kv_heads: number
  head_dim: number
  channels: number
}

export interface LoraAdapterInfo {
  type: 'lora'
  baseModel: string
  /** Absent in adapters that PEFT wrote. */
  baseFingerprint?: string
  r: number
  alpha: number
  dropout: number
  rslora: boolean
  /** DoRA: every module has a magnitude besides its factors. */
  dora?: boolean
  /** Short names, sorted. */
  targetModules: string[]
  /** How the base was stored while this was trained; absent: in full, or PEFT did not say. */
  quantization?: Quantization
}

export interface SparseAdapterInfo {
  type: 'sparse'
  baseModel: string
  baseFingerprint: string
  /** Trained elements of each module. */
  masks: { module: string; count: number }[]
  selection: { strategy: 'random' | 'weight' | 'gradient' | 'fisher'; share: number }
  seed: number
}

export interface LoreftAdapterInfo {
  type: 'loreft'
  baseModel: string
  baseFingerprint: string
  r: number
  /** Behind which it acts; ascending. */
  layers: number[]
  /** First and last positions of the prompt: 'f7+l7'. */
  positions: string
  shareWeights: boolean
  dropout: number
  seed: number
}

export type AdapterInfo = S2ftAdapterInfo | LoraAdapterInfo | SparseAdapterInfo | LoreftAdapterInfo

export interface FuseOptions {
  /** Fuse although the base's fingerprint differs; shapes are checked all the same. */
  force?: boolean
  /** What the adapter's change is multiplied by, any finite number. Default 1. */
  weight?: number
}

/** A module in which two adapters change the same weights. */
export interface ModuleOverlap {
  module: string
  /** How many; absent where the adapters do not tell the sizes that it takes. */
  weights?: number
}

/** Adapters that were fused already and change some of the same weights. */
export interface FuseResult {
  overlaps: { adapter: Adapter; modules: ModuleOverlap[] }[]
}
