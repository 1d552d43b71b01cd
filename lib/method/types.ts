// Fine-tuning methods as plain data: what is trained, before it meets a model.
import type { Adapter } from '../adapter/adapter.js'
import type { Allocation, SelectionOrder, SelectionStrategy } from '../adapter/selection.js'
import type { LayerSelection, ModuleKind } from '../native/binding.js'

export type { Allocation, SelectionOrder, SelectionStrategy }

/**
 * Explicit units (heads for q, k, v, o; channels for gate, up, down): one selection for all
 * layers, one per layer, or per module a list of lists, one per layer.
 */
export type Selection =
  | Partial<Record<ModuleKind, number[] | number[][]>>
  | readonly LayerSelection[]

/** True for strategies whose scores come from training data. */
export function needsData(selection: SelectionStrategy): boolean {
  return selection !== 'random' && selection !== 'weight'
}

export interface S2ftOptions {
  /**
   * Shares of the heads or channels that train. Rounded to the nearest unit, at least one when
   * above 0. Default { o: 0.03, down: 0.03 }, about 1% of a 7B LLaMA's parameters.
   */
  ratios?: Partial<Record<ModuleKind, number>>
  /** Explicit units instead of a selection; excludes the options below but `seed`. */
  select?: Selection
  /** As many trainable values as LoRA of this rank on all linear layers, spent on o and down. */
  budget?: { loraRank: number }
  /**
   * Which units train in a layer (the paper's S²FT-R, -W, -A, -S, -G): drawn at random (default), or
   * ranked by
   * - `weight`: L2 norm of the unit's weights in the modules that train;
   * - `activation`: mean over calibration tokens of the L2 norm of the unit's input to down
   *   (channels) or o (heads; a key/value head has the inputs of its query heads);
   * - `weight-activation`: the product of both;
   * - `gradient`: L2 norm of the loss's gradient for those weights over the calibration data.
   *
   * Modules that share an index (q and o; k and v; gate, up and down) share one ranking: a norm is
   * the root of the sum of squares over those of them that train in the layer, and each takes the
   * first units, so that their sets are nested. Equal scores go by index.
   */
  selection?: SelectionStrategy
  /**
   * Which end of the ranking trains. Default: `smallest` for activation and weight-activation, which
   * the paper's comparison of strategies found the best; `largest` for weight and gradient.
   */
  order?: SelectionOrder
  /**
   * activation, weight-activation, gradient: share of the training data that decides, at least one
   * micro-batch; default 0.01. Trainer.step() and gradients() outside of fit() decide by their first
   * batch.
   */
  calibrationShare?: number
  /**
   * How each module's units are spread over the layers, as many in all whatever the choice: the same
   * in every layer (`uniform`, default), in proportion to 1, 2, 3 … from the first layer on
   * (`increasing`) or from the last (`decreasing`), all in one layer drawn by the seed
   * (`one-random-layer`), or in proportion to a weight for each layer. Rounded by largest
   * remainders. A layer takes no more units than it has: others take what is left, and what none can
   * take is not trained, as with one-random-layer.
   */
  allocation?: Allocation
  /**
   * Units that must not train, so that adapters stay disjoint: those that S²FT adapters train, or
   * rows (q, k, v, gate, up) and columns (o, down) by module name, as an adapter's s2ft_index. A unit
   * that one module of those sharing an index avoids is left alone in all of them.
   */
  avoid?: readonly Adapter[] | Readonly<Record<string, readonly number[]>>
  /** Decides the random selection and layer; default 0. */
  seed?: number
}

export interface LoraOptions {
  /** Default 8. */
  r?: number
  /** Default 16. */
  alpha?: number
  /** Default 0. */
  dropout?: number
  /** Short names (q_proj or q), full names, or 'all-linear' (default). */
  targetModules?: 'all-linear' | readonly string[]
  /** Scale alpha / sqrt(r) instead of alpha / r. */
  rslora?: boolean
  /** Ranks of single modules, by name or its dotted end, as in PEFT: { down_proj: 16 }. */
  rankPattern?: Readonly<Record<string, number>>
  /** Alphas of single modules, likewise. */
  alphaPattern?: Readonly<Record<string, number>>
  /** Initial values and dropout; default 0. */
  seed?: number
}

export interface SparseOptions {
  /** Of every targeted weight's elements; default 0.01. At least one trains. */
  share?: number
  /**
   * Which elements: drawn at random (default), or those of the largest weight, mean gradient, or
   * empirical Fisher information (mean squared gradient of a sample's log-likelihood).
   */
  selection?: 'random' | 'weight' | 'gradient' | 'fisher'
  /** Short names (q_proj or q), full names, or 'all-linear' (default). */
  targetModules?: 'all-linear' | readonly string[]
  /**
   * gradient, fisher: share of the training data that decides, at least one micro-batch; default
   * 0.01. Trainer.step() and gradients() outside of fit() decide by their first batch.
   */
  calibrationShare?: number
  /** Decides a random mask; default 0. */
  seed?: number
}

export interface GaloreOptions {
  /** Dimensions of the projection, at most a weight's smaller side; default 128. */
  r?: number
  /** Steps between new projections; default 200. */
  updateInterval?: number
  /** Of the update, projected back; default 0.25. */
  scale?: number
  /** Where the iteration for singular vectors starts; default 0. */
  seed?: number
}

export interface LoreftOptions {
  /** Dimensions of the subspace that is edited, at most the hidden size; default 8. */
  r?: number
  /** Behind which layers, or 'all' (default). */
  layers?: 'all' | readonly number[]
  /** First and last positions of the prompt, as in pyreft: 'f7+l7' (default), 'f3', 'l1'. */
  positions?: string
  /** The same weights at the first and the last positions of a layer; default true. */
  shareWeights?: boolean
  /** On the edited rows of the residual stream, as in pyreft; default 0. */
  dropout?: number
  /** Initial values and dropout; default 0. */
  seed?: number
}

export interface LisaOptions {
  /** Layers that train at a time; default 2. */
  layers?: number
  /** Steps after which they are drawn anew; default 20. */
  interval?: number
  /** Decides which layers; default 0. */
  seed?: number
}

export interface S2ftMethod {
  readonly kind: 's2ft'
  readonly ratios?: Partial<Record<ModuleKind, number>>
  readonly select?: Selection
  readonly budget?: { readonly loraRank: number }
  /** This and the following are absent with `select`. */
  readonly selection?: SelectionStrategy
  readonly order?: SelectionOrder
  readonly calibrationShare?: number
  readonly allocation?: Allocation
  /** Rows or columns by module. */
  readonly avoid?: Readonly<Record<string, readonly number[]>>
  readonly seed: number
}
interface LowRankMethod {
  readonly r: number
  readonly alpha: number
  readonly dropout: number
  readonly targetModules: 'all-linear' | readonly string[]
  readonly rslora: boolean
  readonly rankPattern?: Readonly<Record<string, number>> | undefined
  readonly alphaPattern?: Readonly<Record<string, number>> | undefined
  readonly seed: number
}
export interface LoraMethod extends LowRankMethod {
  readonly kind: 'lora'
}
export interface DoraMethod extends LowRankMethod {
  readonly kind: 'dora'
}
export interface SparseMethod {
  readonly kind: 'sparse'
  readonly share: number
  readonly selection: 'random' | 'weight' | 'gradient' | 'fisher'
  readonly targetModules: 'all-linear' | readonly string[]
  readonly calibrationShare: number
  readonly seed: number
}
export interface LisaMethod {
  readonly kind: 'lisa'
  readonly layers: number
  readonly interval: number
  readonly seed: number
}
export interface GaloreMethod {
  readonly kind: 'galore'
  readonly r: number
  readonly updateInterval: number
  readonly scale: number
  readonly seed: number
}
export interface LoreftMethod {
  readonly kind: 'loreft'
  readonly r: number
  readonly layers: 'all' | readonly number[]
  readonly positions: string
  readonly shareWeights: boolean
  readonly dropout: number
  readonly seed: number
}
export interface FullMethod {
  readonly kind: 'full'
}
/** Made by s2ft(), lora(), dora(), sparse(), lisa(), galore(), loreft() and full(). */
export type Method =
  | S2ftMethod
  | LoraMethod
  | DoraMethod
  | SparseMethod
  | LisaMethod
  | GaloreMethod
  | LoreftMethod
  | FullMethod

/** True for methods that train the base itself: their result is a model, not an adapter. */
export function changesBase(method: Method): method is FullMethod | LisaMethod | GaloreMethod {
  return method.kind === 'full' || method.kind === 'lisa' || method.kind === 'galore'
}

/** Share of the training data that chooses what trains; undefined where none is needed. */
export function calibrationShare(method: Method): number | undefined {
  if (method.kind === 's2ft') return method.calibrationShare
  const byGradient =
    method.kind === 'sparse' && (method.selection === 'gradient' || method.selection === 'fisher')
  return byGradient ? method.calibrationShare : undefined
}
