// S²FT on one particular model: units named, or how many of them each layer trains.
import { S2FTError } from '../errors.js'
import {
  MODULE_KINDS,
  moduleShape,
  parseModule,
  SLICE_AXIS,
  unitCount,
  unitSize,
} from '../model/modules.js'
import { show } from '../model/validate.js'
import type {
  LayerSelection,
  ModuleKind,
  NativeMethod,
  NativeModelConfig,
} from '../native/binding.js'
import { allocateUnits, layerWeights } from './allocation.js'
import type { S2ftMethod, Selection } from './types.js'

type Counts = Partial<Record<ModuleKind, number>>

function bad(message: string): never {
  throw new S2FTError('INVALID_ARGUMENT', message)
}

/** Nearest whole number of units; a share above 0 gives at least one. */
function ratioCounts(config: NativeModelConfig, ratios: Counts): Counts {
  const counts: Counts = {}
  for (const kind of MODULE_KINDS) {
    const ratio = ratios[kind] ?? 0
    if (ratio > 0) counts[kind] = Math.max(1, Math.round(ratio * unitCount(config, kind)))
  }
  return counts
}

/** Trainable values of LoRA with rank `rank` on the seven linear modules of one layer. */
export function loraSize(config: NativeModelConfig, rank: number): number {
  return MODULE_KINDS.reduce((sum, kind) => {
    const [out, input] = moduleShape(config, kind)
    return sum + rank * (out + input)
  }, 0)
}

/**
 * Units of o and down that hold as many values as LoRA of the given rank: the same share of
 * both, whole heads first, the rest in channels.
 */
function budgetCounts(config: NativeModelConfig, rank: number): Counts {
  const budget = loraSize(config, rank)
  const head = unitSize(config, 'o')
  const channel = unitSize(config, 'down')
  const share = budget / (config.heads * head + config.intermediateSize * channel)
  const o = Math.min(config.heads, Math.floor(share * config.heads))
  const wanted = Math.round((budget - o * head) / channel)
  const down = Math.min(config.intermediateSize, Math.max(o > 0 ? 0 : 1, wanted))
  return { ...(o > 0 ? { o } : {}), ...(down > 0 ? { down } : {}) }
}

function perLayer(select: Selection, layers: number): LayerSelection[] {
  if (Array.isArray(select)) {
    if (select.length !== layers) {
      bad(`select: expected ${layers} entries, one a layer, found ${select.length}`)
    }
    return select as LayerSelection[]
  }
  const entries = Object.entries(select) as [ModuleKind, number[] | number[][] | undefined][]
  return Array.from({ length: layers }, (_, layer) => {
    const selection: LayerSelection = {}
    for (const [kind, given] of entries) {
      if (!given) continue
      if (!Array.isArray(given[0])) {
        selection[kind] = given as number[]
        continue
      }
      if (given.length !== layers) {
        bad(`select.${kind}: expected ${layers} lists, one a layer, found ${given.length}`)
      }
      selection[kind] = given[layer] as number[]
    }
    return selection
  })
}

function checkSelection(config: NativeModelConfig, layers: LayerSelection[]): LayerSelection[] {
  let total = 0
  for (const [layer, selection] of layers.entries()) {
    for (const [kind, list] of Object.entries(selection) as [ModuleKind, number[]][]) {
      const count = unitCount(config, kind)
      const what = `select.${kind} of layer ${layer}`
      const outside = list.find((unit) => unit >= count)
      if (outside !== undefined) bad(`${what}: expected units in [0, ${count}), found ${outside}`)
      if (new Set(list).size !== list.length) {
        bad(`${what}: expected each unit once, found ${show(list)}`)
      }
      total += list.length
    }
  }
  if (total === 0) bad('select: expected at least one unit, found none')
  return layers
}

/** Units that hold any of the rows or columns that are to be avoided. */
function avoidedUnits(
  config: NativeModelConfig,
  avoid: Readonly<Record<string, readonly number[]>>,
): LayerSelection[] {
  const layers = Array.from({ length: config.layers }, (): LayerSelection => ({}))
  for (const [module, indices] of Object.entries(avoid)) {
    const place = parseModule(module)
    if (!place || place.layer >= config.layers) {
      bad(`avoid: expected linear modules within ${config.layers} layers, found ${show(module)}`)
    }
    const { layer, kind } = place
    const length = moduleShape(config, kind)[SLICE_AXIS[kind] === 'rows' ? 0 : 1]
    const outside = indices.find((index) => index >= length)
    if (outside !== undefined) {
      bad(`avoid.${module}: expected ${SLICE_AXIS[kind]} in [0, ${length}), found ${outside}`)
    }
    const width = length / unitCount(config, kind)
    layers[layer]![kind] = [...new Set(indices.map((index) => Math.floor(index / width)))]
  }
  return layers
}

/** The engine's form of `method`. Throws INVALID_ARGUMENT naming what does not fit the model. */
export function resolveS2ft(method: S2ftMethod, config: NativeModelConfig): NativeMethod {
  const { seed, select, budget, avoid } = method
  if (select) {
    const layers = checkSelection(config, perLayer(select, config.layers))
    return { kind: 's2ft', seed, select: layers }
  }
  const even = budget
    ? budgetCounts(config, budget.loraRank)
    : ratioCounts(config, method.ratios ?? {})
  const weights = layerWeights(method.allocation ?? 'uniform', config.layers, seed)
  const counts = weights.map((): Counts => ({}))
  for (const [kind, count] of Object.entries(even) as [ModuleKind, number][]) {
    const most = unitCount(config, kind)
    for (const [layer, share] of allocateUnits(count * config.layers, most, weights).entries()) {
      if (share > 0) counts[layer]![kind] = share
    }
  }
  return {
    kind: 's2ft',
    seed,
    counts,
    selection: method.selection ?? 'random',
    order: method.order ?? 'largest',
    ...(avoid && { avoid: avoidedUnits(config, avoid) }),
  }
}
