// Turns a method into what the engine trains on one particular model.
import { loraScale, patternValue } from '../adapter/lora-format.js'
import { parsePositions } from '../adapter/loreft-format.js'
import { S2FTError } from '../errors.js'
import {
  MODULE_KINDS,
  moduleName,
  moduleShape,
  parseModule,
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
import type {
  DoraMethod,
  LoraMethod,
  LoreftMethod,
  Method,
  S2ftMethod,
  Selection,
  SparseMethod,
} from './types.js'

type Counts = Partial<Record<ModuleKind, number>>

function bad(message: string): never {
  throw new S2FTError('INVALID_ARGUMENT', message)
}

/** Nearest whole number of units; a share above 0 gives at least one. */
export function ratioCounts(config: NativeModelConfig, ratios: Counts): Counts {
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
export function budgetCounts(config: NativeModelConfig, rank: number): Counts {
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

function resolveS2ft(method: S2ftMethod, config: NativeModelConfig): NativeMethod {
  const { seed, select, budget } = method
  if (select) {
    const layers = checkSelection(config, perLayer(select, config.layers))
    return { kind: 's2ft', seed, select: layers }
  }
  const counts = budget
    ? budgetCounts(config, budget.loraRank)
    : ratioCounts(config, method.ratios ?? {})
  return { kind: 's2ft', seed, counts: Array.from({ length: config.layers }, () => counts) }
}

/** Full names of a method's modules. A short name stands for that module of every layer. */
export function targetModules(
  config: NativeModelConfig,
  { kind: method, targetModules: targets }: LoraMethod | DoraMethod | SparseMethod,
): string[] {
  const wanted = targets === 'all-linear' ? [...MODULE_KINDS] : targets
  const chosen = new Set<string>()
  for (const target of wanted) {
    const kind = MODULE_KINDS.find((known) => known === target || `${known}_proj` === target)
    const full = parseModule(target)
    if (kind) {
      for (let layer = 0; layer < config.layers; layer++) chosen.add(moduleName(layer, kind))
    } else if (full && full.layer < config.layers) {
      chosen.add(target)
    } else {
      bad(
        `${method} targetModules: expected "all-linear", one of ` +
          `${MODULE_KINDS.map((known) => `${known}_proj`).join(', ')}, or a full name like ` +
          `${moduleName(0, 'down')} within ${config.layers} layers, found ${show(target)}`,
      )
    }
  }
  const every = Array.from({ length: config.layers }, (_, layer) =>
    MODULE_KINDS.map((kind) => moduleName(layer, kind)),
  ).flat()
  return every.filter((name) => chosen.has(name))
}

function resolveLora(method: LoraMethod | DoraMethod, config: NativeModelConfig): NativeMethod {
  const { kind, seed, dropout, rankPattern: ranks = {}, alphaPattern: alphas = {} } = method
  const names = targetModules(config, method)
  for (const [option, pattern] of Object.entries({ rankPattern: ranks, alphaPattern: alphas })) {
    const unused = Object.keys(pattern).find(
      (key) => !names.some((name) => patternValue({ [key]: 1 }, name)),
    )
    if (unused !== undefined) {
      bad(`${kind} ${option}: expected names of target modules, found ${show(unused)}`)
    }
  }
  const modules = names.map((name) => {
    const r = patternValue(ranks, name) ?? method.r
    return { name, r, scale: loraScale({ ...method, alphas }, name, r) }
  })
  return { kind, seed, dropout, modules }
}

/** The layers behind which LoReFT acts, ascending. Throws INVALID_ARGUMENT for one too high. */
export function loreftLayers({ layers }: LoreftMethod, config: NativeModelConfig): number[] {
  if (layers === 'all') return Array.from({ length: config.layers }, (_, layer) => layer)
  const outside = layers.find((layer) => layer >= config.layers)
  if (outside !== undefined) {
    bad(`loreft layers: expected layers below ${config.layers}, found ${outside}`)
  }
  return [...layers]
}

function resolveLoreft(method: LoreftMethod, config: NativeModelConfig): NativeMethod {
  const { kind, seed, r, dropout, shareWeights: shared, positions } = method
  if (r > config.hiddenSize) {
    bad(`loreft r: expected at most the hidden size ${config.hiddenSize}, found ${r}`)
  }
  const layers = Int32Array.from(loreftLayers(method, config))
  return { kind, seed, layers, r, dropout, shared, ...parsePositions(positions)! }
}

/** The engine's form of `method`. Throws INVALID_ARGUMENT naming what does not fit the model. */
export function resolveMethod(method: Method, config: NativeModelConfig): NativeMethod {
  if (method.kind === 's2ft') return resolveS2ft(method, config)
  if (method.kind === 'full') return { kind: 'full' }
  if (method.kind === 'lisa') {
    if (method.layers > config.layers) {
      bad(`lisa layers: expected at most ${config.layers} as the model has, found ${method.layers}`)
    }
    return { ...method }
  }
  if (method.kind === 'galore') {
    const { kind, seed, r, scale, updateInterval: interval } = method
    return { kind, seed, r, scale, interval }
  }
  if (method.kind === 'loreft') return resolveLoreft(method, config)
  if (method.kind === 'sparse') {
    const { kind, seed, share, selection } = method
    return { kind, seed, share, selection, modules: targetModules(config, method) }
  }
  return resolveLora(method, config)
}
