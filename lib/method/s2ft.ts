// The checked options of S²FT.
import { z } from 'zod'
import { Adapter } from '../adapter/adapter.js'
import { indexName } from '../adapter/s2ft-format.js'
import {
  allocationNames,
  type SelectionOrder,
  type SelectionStrategy,
  selectionOrders,
  selectionStrategies,
} from '../adapter/selection.js'
import { S2FTError } from '../errors.js'
import { MODULE_KINDS } from '../model/modules.js'
import { validate } from '../model/validate.js'
import { seed } from './schemas.js'
import { needsData, type S2ftMethod, type S2ftOptions } from './types.js'

const perModule = <T extends z.ZodType>(value: T) =>
  z.strictObject(
    Object.fromEntries(MODULE_KINDS.map((kind) => [kind, value.optional()])) as Record<
      (typeof MODULE_KINDS)[number],
      z.ZodOptional<T>
    >,
  )
const units = z.array(z.number().int().nonnegative())
const weights = z
  .array(z.number().nonnegative())
  .refine((given) => given.some((weight) => weight > 0), 'expected a weight above 0')

const schema = z.strictObject({
  ratios: perModule(z.number().min(0).max(1)).optional(),
  select: z
    .union(
      [perModule(z.union([units, z.array(units)])), z.array(perModule(units)).min(1)],
      'expected lists of units by module, for all layers or one list a layer',
    )
    .optional(),
  budget: z.strictObject({ loraRank: z.number().int().positive() }).optional(),
  selection: z.enum(selectionStrategies).optional(),
  order: z.enum(selectionOrders).optional(),
  calibrationShare: z.number().positive().max(1).optional(),
  allocation: z
    .union(
      [z.enum(allocationNames), weights],
      `expected ${allocationNames.join(', ')} or a weight for each layer, one above 0`,
    )
    .optional(),
  avoid: z
    .union(
      [z.array(z.instanceof(Adapter)), z.record(z.string(), units)],
      'expected S²FT adapters, or lists of rows or columns by module name',
    )
    .optional(),
  seed,
})

const DEFAULT_RATIOS = { o: 0.03, down: 0.03 }
const DEFAULT_SHARE = 0.01
/**
 * The paper's comparison of strategies found channels of small activations, alone or times the
 * weight, the best. For weights and gradients it is what such scores usually mean.
 */
const DEFAULT_ORDER: Record<Exclude<SelectionStrategy, 'random'>, SelectionOrder> = {
  weight: 'largest',
  activation: 'smallest',
  'weight-activation': 'smallest',
  gradient: 'largest',
}

function refuse(message: string): never {
  throw new S2FTError('INVALID_ARGUMENT', `s2ft options: ${message}`)
}

/** Rows or columns by module: of adapters, those that any of them trains. */
function avoidedIndices(
  avoid: readonly Adapter[] | Record<string, number[]>,
): Record<string, number[]> {
  const found = new Map<string, Set<number>>()
  const add = (module: string, indices: Iterable<number>) => {
    const known = found.get(module) ?? new Set()
    for (const index of indices) known.add(index)
    found.set(module, known)
  }
  if (Array.isArray(avoid)) {
    for (const [i, { info, tensors }] of avoid.entries()) {
      if (info.type !== 's2ft') {
        refuse(`avoid: ${i}: expected an S²FT adapter, found one of type ${info.type}`)
      }
      for (const { module } of info.slices) add(module, tensors.get(indexName(module))!.data)
    }
  } else {
    for (const [module, indices] of Object.entries(avoid)) add(module, indices)
  }
  const sorted = [...found].sort(([a], [b]) => (a < b ? -1 : 1))
  return Object.fromEntries(
    sorted.map(([module, indices]) => [module, [...indices].sort((a, b) => a - b)]),
  )
}

/**
 * Structured sparse fine-tuning (paper section 3): trains a few heads and channels of the given
 * modules. Give one of `ratios`, `select`, `budget`; the default is ratios { o: 0.03, down: 0.03 }.
 * `selection` and `allocation` say which units and how many in each layer; see S2ftOptions.
 * Throws INVALID_ARGUMENT naming the option.
 */
export function s2ft(options: S2ftOptions = {}): S2ftMethod {
  const found = validate(schema, options, 's2ft options')
  const { ratios, select, budget, selection = 'random', allocation = 'uniform' } = found
  const given = Object.entries({ ratios, select, budget }).filter(([, value]) => value)
  if (given.length > 1) {
    refuse(`expected one of ratios, select, budget, found ${given.map(([key]) => key).join(', ')}`)
  }
  if (select) {
    const keys = ['selection', 'order', 'calibrationShare', 'allocation', 'avoid'] as const
    const other = keys.find((key) => found[key] !== undefined)
    if (other) refuse(`select names the units: expected it without ${other}, found both`)
    return {
      kind: 's2ft',
      select: select as NonNullable<S2ftMethod['select']>,
      seed: found.seed,
    }
  }
  if (ratios && !Object.values(ratios).some((ratio) => ratio !== undefined && ratio > 0)) {
    refuse('ratios: expected at least one share above 0, found none')
  }
  if (found.order && selection === 'random') {
    refuse(`order: expected a selection by score beside "${found.order}", found "random"`)
  }
  if (found.calibrationShare !== undefined && !needsData(selection)) {
    refuse(
      'calibrationShare: expected a selection by activation, weight-activation or gradient ' +
        `beside ${found.calibrationShare}, found "${selection}"`,
    )
  }
  return {
    kind: 's2ft',
    ...(budget
      ? { budget }
      : { ratios: (ratios ?? DEFAULT_RATIOS) as NonNullable<S2ftMethod['ratios']> }),
    selection,
    ...(selection !== 'random' && { order: found.order ?? DEFAULT_ORDER[selection] }),
    ...(needsData(selection) && { calibrationShare: found.calibrationShare ?? DEFAULT_SHARE }),
    allocation,
    ...(found.avoid && { avoid: avoidedIndices(found.avoid) }),
    seed: found.seed,
  }
}
