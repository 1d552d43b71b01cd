// The linear modules of a model: names, sizes, and what one selectable unit of each is.
import type { ModuleKind, NativeModelConfig } from '../native/binding.js'

export const MODULE_KINDS = ['q', 'k', 'v', 'o', 'gate', 'up', 'down'] as const

/** Which side of the weight a slice lies on (design: named by axis). */
export const SLICE_AXIS: Record<ModuleKind, 'rows' | 'cols'> = {
  q: 'rows',
  k: 'rows',
  v: 'rows',
  o: 'cols',
  gate: 'rows',
  up: 'rows',
  down: 'cols',
}

export function moduleName(layer: number, kind: ModuleKind): string {
  const block = kind === 'gate' || kind === 'up' || kind === 'down' ? 'mlp' : 'self_attn'
  return `model.layers.${layer}.${block}.${kind}_proj`
}

/** Layer and kind of a linear module's full name; undefined for any other name. */
export function parseModule(name: string): { layer: number; kind: ModuleKind } | undefined {
  const match = /^model\.layers\.(0|[1-9]\d{0,5})\.(self_attn|mlp)\.([a-z]+)_proj$/.exec(name)
  const kind = MODULE_KINDS.find((known) => known === match?.[3])
  if (!match || !kind) return undefined
  const layer = Number(match[1])
  return moduleName(layer, kind) === name ? { layer, kind } : undefined
}

/** Shape [out, in] of a linear weight. */
export function moduleShape(config: NativeModelConfig, kind: ModuleKind): [number, number] {
  const { hiddenSize, intermediateSize, heads, kvHeads, headDim } = config
  if (kind === 'q') return [heads * headDim, hiddenSize]
  if (kind === 'k' || kind === 'v') return [kvHeads * headDim, hiddenSize]
  if (kind === 'o') return [hiddenSize, heads * headDim]
  if (kind === 'down') return [hiddenSize, intermediateSize]
  return [intermediateSize, hiddenSize]
}

/** Selectable units: query heads (q, o), key/value heads (k, v), channels (gate, up, down). */
export function unitCount(config: NativeModelConfig, kind: ModuleKind): number {
  if (kind === 'q' || kind === 'o') return config.heads
  if (kind === 'k' || kind === 'v') return config.kvHeads
  return config.intermediateSize
}

/** Weights in one unit of one layer. */
export function unitSize(config: NativeModelConfig, kind: ModuleKind): number {
  const [out, input] = moduleShape(config, kind)
  return (out * input) / unitCount(config, kind)
}
