// What an adapter says about itself.
import type { ModuleKind, Tensor } from '../native/binding.js'

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
  selection: { strategy: 'random' | 'explicit'; ratios?: Partial<Record<ModuleKind, number>> }
  seed: number
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
}
