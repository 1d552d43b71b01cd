// What is trained: the methods side by side, and S²FT with other units, layers and modules.
import type { Adapter } from '../adapter/adapter.js'
import { S2FTError } from '../errors.js'
import * as methods from '../method/index.js'
import { loraSize } from '../method/resolve-s2ft.js'
import type { Method, S2ftOptions } from '../method/types.js'
import { MODULE_KINDS, moduleShape } from '../model/modules.js'
import type { ModuleKind, NativeModelConfig } from '../native/binding.js'
import type { StudySettings } from './settings.js'

export interface MethodContext {
  config: NativeModelConfig
  settings: StudySettings
  /** Optimizer steps of the run. */
  steps: number
  seed: number
  /** Its units are not to be trained. */
  avoid?: Adapter | undefined
}

export interface Variant {
  name: string
  /** What it is in a table, where the name does not say. */
  about?: string
  /** Where the search for a learning rate begins; variations take that of `s2ft`. */
  rate?: number
  method: (context: MethodContext) => Method
}

/** Names whose adapters fusion needs. */
export const keptVariants: readonly string[] = ['s2ft', 's2ft disjoint', 'lora']

const budget = ({ settings }: MethodContext) => ({ loraRank: settings.rank })

/** Shares of these modules that hold as many values as LoRA on all linear layers. */
export function componentRatios(
  config: NativeModelConfig,
  rank: number,
  kinds: readonly ModuleKind[],
): Partial<Record<ModuleKind, number>> {
  const size = (kind: ModuleKind) => moduleShape(config, kind).reduce((a, b) => a * b, 1)
  const share = loraSize(config, rank) / kinds.reduce((sum, kind) => sum + size(kind), 0)
  return Object.fromEntries(kinds.map((kind) => [kind, Math.min(1, share)]))
}

/** Share of all linear weights that holds as many values as LoRA. */
function sparseShare({ config, settings }: MethodContext): number {
  const sizes = MODULE_KINDS.map((kind) => moduleShape(config, kind).reduce((a, b) => a * b, 1))
  const all = sizes.reduce((sum, size) => sum + size, 0)
  return Math.min(1, loraSize(config, settings.rank) / all)
}

/** The paper's table: every method over one engine. */
export function methodVariants(settings: StudySettings): Variant[] {
  const every = (context: MethodContext, parts: number) =>
    Math.max(1, Math.floor(context.steps / parts))
  return [
    {
      name: 's2ft',
      about: 'o and down, units at random',
      rate: 3e-3,
      method: (context) => methods.s2ft({ budget: budget(context), seed: context.seed }),
    },
    {
      name: 'lora',
      about: `rank ${settings.rank} on all linear layers`,
      rate: 3e-3,
      method: ({ seed }) => methods.lora({ r: settings.rank, alpha: 2 * settings.rank, seed }),
    },
    {
      name: 'dora',
      about: `rank ${settings.rank} on all linear layers`,
      rate: 3e-3,
      method: ({ seed }) => methods.dora({ r: settings.rank, alpha: 2 * settings.rank, seed }),
    },
    {
      name: 'loreft',
      about: 'rank 4 on the hidden states',
      rate: 3e-3,
      method: ({ seed }) => methods.loreft({ r: 4, seed }),
    },
    ...settings.masks.map(
      (selection): Variant => ({
        name: `sparse ${selection}`,
        about: 'single elements of all linear layers',
        rate: 3e-3,
        method: (context) =>
          methods.sparse({
            share: sparseShare(context),
            selection,
            calibrationShare: settings.calibrationShare,
            seed: context.seed,
          }),
      }),
    ),
    {
      name: 'lisa',
      about: '2 layers at a time, embedding and head; drawn anew 6 times',
      rate: 3e-4,
      method: (context) =>
        methods.lisa({ layers: 2, interval: every(context, 6), seed: context.seed }),
    },
    {
      name: 'galore',
      about: `every weight; gradients of rank ${4 * settings.rank}, projected anew 4 times`,
      rate: 3e-3,
      method: (context) =>
        methods.galore({
          r: 4 * settings.rank,
          updateInterval: every(context, 4),
          seed: context.seed,
        }),
    },
    { name: 'full', about: 'every weight', rate: 3e-4, method: () => methods.full() },
  ]
}

/** S²FT within LoRA's budget and with other options, named by them. */
function s2ftWith(
  name: string,
  options: (context: MethodContext) => Record<string, unknown>,
): Variant {
  return {
    name,
    method: (context) =>
      methods.s2ft({
        seed: context.seed,
        ...options(context),
      } as S2ftOptions),
  }
}

/** How units are chosen; at random is `s2ft`. */
export function selectionVariants(): Variant[] {
  const scores = ['weight', 'activation', 'weight-activation', 'gradient']
  return scores.flatMap((selection) =>
    ['largest', 'smallest'].map((order) =>
      s2ftWith(`s2ft ${selection}, ${order}`, (context) => ({
        budget: budget(context),
        selection,
        order,
        ...(selection !== 'weight' && { calibrationShare: context.settings.calibrationShare }),
      })),
    ),
  )
}

/** How the budget is spread over layers; uniform is `s2ft`. */
export function allocationVariants(): Variant[] {
  return ['increasing', 'decreasing', 'one-random-layer'].map((allocation) =>
    s2ftWith(`s2ft ${allocation}`, (context) => ({ budget: budget(context), allocation })),
  )
}

const components: readonly (readonly ModuleKind[])[] = [
  ['q', 'k'],
  ['v', 'o'],
  ['q', 'k', 'v', 'o'],
  ['gate', 'up'],
  ['down'],
  [...MODULE_KINDS],
]

/** Which modules train; o and down is `s2ft`. */
export function componentVariants(): Variant[] {
  return components.map((kinds) =>
    s2ftWith(`s2ft ${kinds.join(', ')}`, ({ config, settings }) => ({
      ratios: componentRatios(config, settings.rank, kinds),
    })),
  )
}

/** Units that the given adapter leaves alone. */
const disjoint = s2ftWith('s2ft disjoint', (context) => ({
  budget: budget(context),
  avoid: context.avoid === undefined ? [] : [context.avoid],
}))

/** The variant of this name. Throws INTERNAL for an unknown one. */
export function variantNamed(name: string, settings: StudySettings): Variant {
  const all = [
    ...methodVariants(settings),
    ...selectionVariants(),
    ...allocationVariants(),
    ...componentVariants(),
    disjoint,
  ]
  const found = all.find((variant) => variant.name === name)
  if (!found) throw new S2FTError('INTERNAL', `expected a variant of the study, found ${name}`)
  return found
}
