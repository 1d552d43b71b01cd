// What the settings of S²FT mean together, and the method they make.
import { Adapter } from '../adapter/adapter.js'
import type { Allocation, SelectionOrder, SelectionStrategy } from '../adapter/selection.js'
import { s2ft } from '../method/index.js'
import { needsData, type S2ftMethod } from '../method/types.js'
import type { ModuleKind } from '../native/binding.js'
import { usage } from './output.js'

/** As given; what is absent is left to the method's defaults. */
export interface SelectionSettings {
  ratios?: Partial<Record<ModuleKind, number>>
  budgetLoraRank?: number
  selection?: SelectionStrategy
  selectionOrder?: SelectionOrder
  calibrationShare?: number
  allocation?: Allocation
  avoid?: string[]
  seed?: number
}

/** Throws USAGE for settings that contradict each other. */
export function checkSelection(settings: SelectionSettings): void {
  const { selection = 'random', selectionOrder, calibrationShare } = settings
  if (settings.ratios && settings.budgetLoraRank !== undefined) {
    throw usage("options '--ratios' and '--budget-lora-rank' exclude each other")
  }
  if (selectionOrder !== undefined && selection === 'random') {
    throw usage("option '--selection-order' needs a '--selection' other than random")
  }
  if (calibrationShare !== undefined && !needsData(selection)) {
    throw usage(
      "option '--calibration-share' needs '--selection' activation, weight-activation or gradient",
    )
  }
}

/** The adapters to leave alone. Throws what Adapter.load throws. */
export function avoidedAdapters({ avoid = [] }: SelectionSettings): Promise<Adapter[]> {
  return Promise.all(avoid.map((directory) => Adapter.load(directory)))
}

export function s2ftMethod(settings: SelectionSettings, avoid: readonly Adapter[]): S2ftMethod {
  const { ratios, budgetLoraRank, selection, selectionOrder, calibrationShare } = settings
  return s2ft({
    ...(ratios && { ratios }),
    ...(budgetLoraRank !== undefined && { budget: { loraRank: budgetLoraRank } }),
    ...(selection && { selection }),
    ...(selectionOrder && { order: selectionOrder }),
    ...(calibrationShare !== undefined && { calibrationShare }),
    ...(settings.allocation && { allocation: settings.allocation }),
    ...(avoid.length > 0 && { avoid }),
    seed: settings.seed ?? 0,
  })
}
