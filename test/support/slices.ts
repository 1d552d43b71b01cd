// Slices of weights by original index, as the S²FT gradients and adapters order them.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { GoldenCase, GoldenRun, Module } from './golden.js'

const paths: Record<Module, string> = {
  q: 'self_attn.q_proj',
  k: 'self_attn.k_proj',
  v: 'self_attn.v_proj',
  o: 'self_attn.o_proj',
  gate: 'mlp.gate_proj',
  up: 'mlp.up_proj',
  down: 'mlp.down_proj',
}

/** A module with a trainable slice: the axis of the slice and its original indices, ascending. */
export interface ExpectedSlice {
  module: string
  axis: 'rows' | 'cols'
  index: number[]
}

/** The slices that a run's selection means: heads become head_dim rows (q, k, v) or columns (o). */
export function expectedSlices(golden: GoldenCase, run: GoldenRun): ExpectedSlice[] {
  const config = JSON.parse(readFileSync(join(golden.directory, 'config.json'), 'utf8'))
  const headDim: number = config.head_dim ?? config.hidden_size / config.num_attention_heads
  const slices: ExpectedSlice[] = []
  for (const [kind, layers] of Object.entries(run.select ?? {}) as [Module, number[][]][]) {
    const unit = kind === 'gate' || kind === 'up' || kind === 'down' ? 1 : headDim
    for (const [layer, units] of layers.entries()) {
      if (units.length === 0) continue
      slices.push({
        module: `model.layers.${layer}.${paths[kind]}`,
        axis: kind === 'o' || kind === 'down' ? 'cols' : 'rows',
        index: ascending(units).flatMap((u) =>
          Array.from({ length: unit }, (_, i) => u * unit + i),
        ),
      })
    }
  }
  return slices.sort((a, b) => (a.module < b.module ? -1 : 1))
}

/** Rows or columns `index` of a weight `[out, in]`: `[s, in]` or `[out, s]`. */
export function gather(
  values: Float32Array,
  [out, inputs]: readonly [number, number],
  axis: 'rows' | 'cols',
  index: ArrayLike<number>,
): Float32Array {
  const at = Array.from(index)
  if (axis === 'rows') {
    return Float32Array.from(
      at.flatMap((row) => Array.from(values.subarray(row * inputs, (row + 1) * inputs))),
    )
  }
  return Float32Array.from(
    Array.from({ length: out }, (_, row) => at.map((col) => values[row * inputs + col]!)).flat(),
  )
}

/** Puts a slice whose units are listed in `index` order into ascending order of the index. */
export function sortSlice(
  values: Float32Array,
  axis: 'rows' | 'cols',
  index: ArrayLike<number>,
): Float32Array {
  const order = Array.from(index, (_, position) => position).sort((a, b) => index[a]! - index[b]!)
  const other = values.length / index.length
  const shape =
    axis === 'rows' ? ([index.length, other] as const) : ([other, index.length] as const)
  return gather(values, shape, axis, order)
}

export function ascending(values: ArrayLike<number>): number[] {
  return Array.from(values).sort((a, b) => a - b)
}
