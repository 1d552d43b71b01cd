// The settings of `s2ft train` that say which heads and channels S²FT trains.
import { InvalidArgumentError } from 'commander'
import {
  type Allocation,
  allocationNames,
  selectionOrders,
  selectionStrategies,
} from '../adapter/selection.js'
import { integer, list, number, oneOf, ratios } from './parse.js'
import type { Setting } from './train-settings.js'

/** A reader of an allocation's name, or of a weight for each layer. */
export function allocation(text: string): Allocation {
  const name = allocationNames.find((known) => known === text)
  if (name) return name
  const weights = list(text).map(Number)
  if (weights.some((weight) => weight > 0) && weights.every((weight) => weight >= 0)) {
    return weights
  }
  throw new InvalidArgumentError(
    `expected ${allocationNames.join(', ')} or a weight for each layer, e.g. 1,2,3, one above 0`,
  )
}

export const selectionSettings: Omit<Setting, 'group'>[] = [
  {
    key: 'ratios',
    value: 'list',
    description:
      's2ft: shares of heads (q,k,v,o) or channels (gate,up,down) that train, e.g. down=0.03,o=0.1',
    fallback: 'o=0.03,down=0.03',
    read: ratios,
  },
  {
    key: 'budgetLoraRank',
    value: 'r',
    description: 's2ft: instead of ratios, as many trainable values as LoRA of this rank',
    read: integer({ min: 1 }),
  },
  {
    key: 'selection',
    value: 'how',
    description: `s2ft: which heads and channels: ${selectionStrategies.join(', ')}`,
    fallback: 'random',
    read: oneOf(...selectionStrategies),
  },
  {
    key: 'selectionOrder',
    value: 'end',
    description:
      's2ft: those of the largest or of the smallest scores ' +
      '(default: smallest by activation and weight-activation, largest by weight and gradient)',
    read: oneOf(...selectionOrders),
  },
  {
    key: 'calibrationShare',
    value: 'share',
    description:
      's2ft, by activation, weight-activation or gradient: share of the data that decides',
    fallback: 0.01,
    read: number({ above: 0, max: 1 }),
  },
  {
    key: 'allocation',
    value: 'how',
    description:
      `s2ft: heads and channels over the layers: ${allocationNames.join(', ')}, ` +
      'or a weight for each layer, e.g. 1,2,3',
    fallback: 'uniform',
    read: allocation,
  },
  {
    key: 'avoid',
    value: 'dir...',
    description: 's2ft: adapters whose heads and channels must not train; repeatable',
    read: (text) => text,
    repeatable: true,
  },
]
