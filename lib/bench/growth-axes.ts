// What `s2ft bench growth` varies: each axis is a list of points, a point is what it changes of
// its series' base.
import { fullScale, ofWidth, quickScale } from './growth-scale.js'
import type { BenchMethod } from './operations.js'
import { weightBytes } from './random-model.js'
import { linearShapes, type ShapeConfig } from './shapes.js'

export const growthAxes = ['tokens', 'layers', 'width', 'share', 'threads', 'load'] as const
export type GrowthAxis = (typeof growthAxes)[number]

/** One model and one step on it. */
export interface Setting extends ShapeConfig {
  method: BenchMethod
  batch: number
  sequence: number
  /** S²FT's channels of gate, up and down, and LoRA's rank. */
  channels: number
  rank: number
  /** 0: all CPUs of this process. */
  threads: number
}

export interface Point {
  x: number
  change: Partial<Setting>
}

export interface Series {
  name: string
  base: Setting
  points: Point[]
}

export interface Axis {
  axis: GrowthAxis
  /** What x counts. */
  unit: string
  /** What readers have to know of the base. */
  remark?: string
  /** Training steps, or loading the model. */
  measures: 'step' | 'load'
  series: Series[]
}

const wholeChannels = (share: number, shape: ShapeConfig) =>
  Math.max(1, Math.round(share * shape.intermediate_size))

/** LoRA's rank on gate, up and down with about as many parameters as S²FT's channels there. */
export function equalRank(shape: ShapeConfig, channels: number): number {
  const { gate, up, down } = linearShapes(shape)
  const perRank = [gate!, up!, down!].reduce((sum, [a, b]) => sum + a + b, 0)
  return Math.max(1, Math.round((3 * channels * shape.hidden_size) / perRank))
}

/** 1, 2, 4 ... and `available` itself. */
export function threadCounts(available: number): number[] {
  const counts = []
  for (let n = 1; n < available; n *= 2) counts.push(n)
  return [...counts, available]
}

/** All axes; `threads` are those of the machine or fewer. */
export function makeAxes(options: {
  quick: boolean
  threads: number
  dtype: 'bf16' | 'f32'
}): Axis[] {
  const scale = options.quick ? quickScale() : fullScale()
  const { batch, sequence, channels, rank, wide, narrow, file, packed } = scale
  const step = {
    method: 's2ft' as const,
    batch,
    sequence,
    channels,
    rank,
    threads: options.threads,
  }
  const base = (shape: ShapeConfig, layers = shape.num_hidden_layers): Setting => ({
    ...shape,
    ...step,
    num_hidden_layers: layers,
  })
  const long = base(wide, scale.longLayers)
  const shared = base(wide, scale.shareLayers)
  const fewer = (layers: number, why: string) =>
    `${layers} of the ${wide.num_hidden_layers} layers that width ${wide.hidden_size} has elsewhere: ${why}`
  const shares = (change: (count: number) => Partial<Setting>) =>
    scale.shares.map((x) => ({ x, change: change(wholeChannels(x, wide)) }))
  return [
    {
      axis: 'tokens',
      unit: 'tokens',
      remark: fewer(scale.longLayers, 'so that the longest sequences take seconds'),
      measures: 'step',
      series: [
        {
          name: 'one sequence',
          base: long,
          points: scale.tokens.map((x) => ({ x, change: { batch: 1, sequence: x } })),
        },
        {
          name: `packed samples of ${packed}`,
          base: long,
          points: scale.tokens.map((x) => ({
            x,
            change: { batch: x / packed, sequence: packed },
          })),
        },
      ],
    },
    {
      axis: 'layers',
      unit: 'layers',
      measures: 'step',
      series: [wide, narrow].map((shape, i) => ({
        name: `width ${shape.hidden_size}`,
        base: base(shape),
        points: (i === 0 ? scale.wideLayers : scale.narrowLayers).map((x) => ({
          x,
          change: { num_hidden_layers: x },
        })),
      })),
    },
    {
      axis: 'width',
      unit: 'hidden size',
      measures: 'step',
      series: [
        {
          name: `${narrow.num_hidden_layers} layers`,
          base: base(narrow),
          points: scale.widths.map((x) => ({
            x,
            change: {
              ...ofWidth(x, narrow.num_hidden_layers, narrow.vocab_size),
              channels: wholeChannels(channels / wide.intermediate_size, ofWidth(x, 1, 1)),
            },
          })),
        },
      ],
    },
    {
      axis: 'share',
      unit: 'share of the channels',
      remark: `LoRA of the rank that has as many parameters; ${fewer(scale.shareLayers, 'to save time')}`,
      measures: 'step',
      series: [
        { name: 's2ft', base: shared, points: shares((count) => ({ channels: count })) },
        {
          name: 'lora3',
          base: { ...shared, method: 'lora3' },
          points: shares((count) => ({ rank: equalRank(wide, count) })),
        },
      ],
    },
    {
      axis: 'threads',
      unit: 'threads',
      remark: fewer(scale.shareLayers, 'to save time'),
      measures: 'step',
      series: [
        {
          name: `${scale.shareLayers} layers`,
          base: shared,
          points: threadCounts(options.threads).map((x) => ({ x, change: { threads: x } })),
        },
      ],
    },
    {
      axis: 'load',
      unit: 'bytes of weights',
      remark: "the file is in the system's page cache; resident bytes beyond those before loading",
      measures: 'load',
      series: [
        {
          name: `width ${file.hidden_size}`,
          base: base(file),
          points: scale.fileLayers.map((layers) => {
            const change = { num_hidden_layers: layers }
            return { x: weightBytes({ ...file, ...change }, options.dtype), change }
          }),
        },
      ],
    },
  ]
}
