// Turns a method into what the engine trains on one particular model.
import { loraScale, patternValue } from '../adapter/lora-format.js'
import { parsePositions } from '../adapter/loreft-format.js'
import { S2FTError } from '../errors.js'
import { MODULE_KINDS, moduleName, parseModule } from '../model/modules.js'
import { show } from '../model/validate.js'
import type { NativeMethod, NativeModelConfig } from '../native/binding.js'
import { resolveS2ft } from './resolve-s2ft.js'
import type { DoraMethod, LoraMethod, LoreftMethod, Method, SparseMethod } from './types.js'

function bad(message: string): never {
  throw new S2FTError('INVALID_ARGUMENT', message)
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
