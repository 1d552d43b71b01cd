// The settings of `s2ft train` that choose a method and say how it trains.
import { InvalidArgumentError } from 'commander'
import { parsePositions } from '../adapter/loreft-format.js'
import { integer, integers, list, number, numbersByName, oneOf } from './parse.js'
import { selectionSettings } from './selection-settings.js'
import type { Setting } from './train-settings.js'

export const implementedMethods = [
  's2ft',
  'lora',
  'dora',
  'sparse',
  'lisa',
  'galore',
  'loreft',
  'full',
] as const

const count = integer({ min: 1 })
const readLayers = integers({ min: 0 })

export const methodSettings: Omit<Setting, 'group'>[] = [
  {
    key: 'method',
    value: 'name',
    description: `what is trained: ${implementedMethods.join(', ')}`,
    fallback: 's2ft',
    read: oneOf(...implementedMethods),
  },
  ...selectionSettings,
  { key: 'loraR', value: 'r', description: 'lora, dora: rank', fallback: 8, read: count },
  {
    key: 'loraAlpha',
    value: 'a',
    description: 'lora, dora: scale is alpha / r',
    fallback: 16,
    read: number({ above: 0 }),
  },
  {
    key: 'loraRslora',
    description: 'lora, dora: scale is alpha / sqrt(r)',
    fallback: false,
  },
  {
    key: 'loraRankPattern',
    value: 'list',
    description: 'lora, dora: ranks of single modules, e.g. down_proj=16,layers.0.mlp.up_proj=4',
    read: numbersByName(count),
  },
  {
    key: 'loraAlphaPattern',
    value: 'list',
    description: 'lora, dora: alphas of single modules, likewise',
    read: numbersByName(number({ above: 0 })),
  },
  {
    key: 'loraDropout',
    value: 'p',
    description: 'lora, dora: dropout on the input of the factors',
    fallback: 0,
    read: number({ min: 0, max: 0.99 }),
  },
  {
    key: 'targetModules',
    value: 'list',
    description: 'lora, dora, sparse: module names, e.g. q_proj,v_proj, or all-linear',
    fallback: 'all-linear',
    read: list,
  },
  {
    key: 'sparseShare',
    value: 'share',
    description: "sparse: share of every targeted weight's elements that train",
    fallback: 0.01,
    read: number({ above: 0, max: 1 }),
  },
  {
    key: 'sparseSelection',
    value: 'how',
    description: 'sparse: which elements: random, weight, gradient, fisher',
    fallback: 'random',
    read: oneOf('random', 'weight', 'gradient', 'fisher'),
  },
  {
    key: 'sparseCalibrationShare',
    value: 'share',
    description: 'sparse, by gradient or fisher: share of the data that decides',
    fallback: 0.01,
    read: number({ above: 0, max: 1 }),
  },
  {
    key: 'galoreR',
    value: 'r',
    description: 'galore: dimensions of the projection',
    fallback: 128,
    read: count,
  },
  {
    key: 'galoreUpdateInterval',
    value: 'steps',
    description: 'galore: steps between new projections',
    fallback: 200,
    read: count,
  },
  {
    key: 'galoreScale',
    value: 's',
    description: 'galore: factor of the update',
    fallback: 0.25,
    read: number({ above: 0 }),
  },
  {
    key: 'lisaLayers',
    value: 'n',
    description: 'lisa: layers that train at a time',
    fallback: 2,
    read: count,
  },
  {
    key: 'lisaInterval',
    value: 'steps',
    description: 'lisa: steps after which the layers are drawn anew',
    fallback: 20,
    read: count,
  },
  {
    key: 'loreftR',
    value: 'r',
    description: 'loreft: dimensions of the subspace that is edited',
    fallback: 8,
    read: count,
  },
  {
    key: 'loreftLayers',
    value: 'list',
    description: 'loreft: behind which layers, e.g. 3,9,18,24, or all',
    fallback: 'all',
    read: (text) => (text === 'all' ? text : readLayers(text)),
  },
  {
    key: 'loreftPositions',
    value: 'f<p>+l<s>',
    description: 'loreft: the first p and the last s positions of every prompt',
    fallback: 'f7+l7',
    read: (text) => {
      if (parsePositions(text)) return text
      throw new InvalidArgumentError('expected first and last positions, e.g. f7+l7, f3 or l1')
    },
  },
  {
    key: 'loreftSeparateWeights',
    description: 'loreft: weights of their own for the first and the last positions',
    fallback: false,
  },
  {
    key: 'loreftDropout',
    value: 'p',
    description: 'loreft: dropout on the edited rows of the residual stream',
    fallback: 0,
    read: number({ min: 0, max: 0.99 }),
  },
  {
    key: 'quantize',
    value: 'type',
    description:
      "s2ft, lora, dora, loreft: keep the blocks' frozen weights in 8 or 4 bits: int8, nf4 (QLoRA's)",
    read: oneOf('int8', 'nf4'),
  },
  {
    key: 'seed',
    value: 'n',
    description:
      "selection of channels, elements or layers, LoRA's start and the order of the data",
    fallback: 0,
    read: integer({ min: 0, max: 2 ** 32 - 1 }),
  },
]
