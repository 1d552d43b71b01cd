// Which weights two adapters both change: fused together, their changes add up there.
import type { Tensor } from '../native/binding.js'
import type { Adapter } from './adapter.js'
import { loraName } from './lora-format.js'
import { deltaName, indexName } from './s2ft-format.js'
import { sparseIndexName } from './sparse-format.js'
import type { ModuleOverlap } from './types.js'

/** The weights that an adapter changes in one module; `all` of them for low-rank factors. */
interface Touched {
  rows?: Int32Array
  cols?: Int32Array
  places?: Int32Array
  all?: true
  out?: number
  in?: number
}

const ints = (tensor: Tensor | undefined) => tensor!.data as Int32Array

function touched({ info, tensors }: Adapter): Map<string, Touched> {
  const found = new Map<string, Touched>()
  if (info.type === 's2ft') {
    for (const { module, axis } of info.slices) {
      const index = ints(tensors.get(indexName(module)))
      const [a, b] = tensors.get(deltaName(module))!.shape as [number, number]
      found.set(module, axis === 'rows' ? { rows: index, in: b } : { cols: index, out: a })
    }
  } else if (info.type === 'sparse') {
    for (const { module } of info.masks) {
      found.set(module, { places: ints(tensors.get(sparseIndexName(module))) })
    }
  } else if (info.type === 'lora') {
    for (const [name, { shape }] of tensors) {
      if (!name.endsWith('.lora_A')) continue
      const module = name.slice(0, -'.lora_A'.length)
      found.set(module, {
        all: true,
        in: shape[1]!,
        out: tensors.get(loraName(module, 'B'))!.shape[0]!,
      })
    }
  }
  return found
}

function common(a: Int32Array, b: Int32Array): number {
  const known = new Set(a)
  return b.reduce((count, value) => count + (known.has(value) ? 1 : 0), 0)
}

/** Weights in both; undefined where that takes a size that neither tells. */
function shared(a: Touched, b: Touched): number | undefined {
  const out = a.out ?? b.out
  const input = a.in ?? b.in
  const times = (n: number, size: number | undefined) =>
    n === 0 ? 0 : size === undefined ? undefined : n * size
  if (b.all && !a.all) return shared(b, a)
  if (a.all) {
    if (b.places) return b.places.length
    if (b.rows) return times(b.rows.length, input)
    if (b.cols) return times(b.cols.length, out)
    return times(out!, input)
  }
  if (a.places && b.places) return common(a.places, b.places)
  if (b.places) return shared(b, a)
  if (a.places) {
    if (input === undefined) return undefined
    const chosen = new Set(b.rows ?? b.cols)
    const side = b.rows
      ? (place: number) => Math.floor(place / input)
      : (place: number) => place % input
    return a.places.reduce((count, place) => count + (chosen.has(side(place)) ? 1 : 0), 0)
  }
  if (a.rows && b.rows) return times(common(a.rows, b.rows), input)
  return times(common(a.cols!, b.cols!), out)
}

/**
 * The modules in which both adapters change the same weights, and how many; none means that they
 * can be fused together without touching each other. The sizes of the input that masks and input
 * columns do not tell come from `inputs`.
 */
export function adapterOverlap(
  a: Adapter,
  b: Adapter,
  inputs: (module: string) => number | undefined = () => undefined,
): ModuleOverlap[] {
  const others = touched(b)
  return [...touched(a)].flatMap(([module, mine]) => {
    const theirs = others.get(module)
    if (!theirs) return []
    const input = mine.in ?? theirs.in ?? inputs(module)
    const weights = shared(input === undefined ? mine : { ...mine, in: input }, theirs)
    return weights === 0 ? [] : [weights === undefined ? { module } : { module, weights }]
  })
}
