// What an adapter changes, as it crosses the border.

/** Rank, first and last positions of a prompt, and whether both have the same weights. */
export interface NativeLoreftShape {
  r: number
  first: number
  last: number
  shared: boolean
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
