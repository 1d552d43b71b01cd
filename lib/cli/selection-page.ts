// Draws which heads and channels an S²FT adapter trains, layer by layer.
import type { Adapter } from '../adapter/adapter.js'
import type { S2ftAdapterInfo } from '../adapter/types.js'
import { type ChosenUnits, chosenUnits } from '../adapter/units.js'
import { MODULE_KINDS } from '../model/modules.js'
import { grouped } from '../report/format.js'
import type { Cell } from '../report/grid-plot.js'
import type { Block, Page } from '../report/html.js'

/** Cells a row at most: more would be finer than a screen shows. */
const MOST_CELLS = 128

/** Facts on how the units were chosen, as far as the adapter knows them. */
export function selectionFacts({ selection, seed }: S2ftAdapterInfo): Record<string, string> {
  const { strategy, order, share, allocation, ratios, lora_rank: rank } = selection
  return {
    selection: strategy,
    ...(order && { order }),
    ...(share !== undefined && { calibrationShare: String(share) }),
    ...(allocation && {
      allocation: typeof allocation === 'string' ? allocation : allocation.join(', '),
    }),
    ...(ratios && { ratios: JSON.stringify(ratios) }),
    ...(rank !== undefined && { budgetLoraRank: String(rank) }),
    seed: String(seed),
  }
}

/** How much of each part of a row is chosen; parts without any are left out. */
export function cellsOf({ layer, chosen }: ChosenUnits, columns: number): Cell[] {
  const width = Math.ceil(columns / MOST_CELLS)
  const counts = new Map<number, number>()
  for (const unit of chosen) {
    const cell = Math.floor(unit / width)
    counts.set(cell, (counts.get(cell) ?? 0) + 1)
  }
  return [...counts].map(([cell, count]) => {
    const begin = cell * width
    const end = Math.min(begin + width, columns)
    return { row: layer, begin, end, share: count / (end - begin) }
  })
}

function moduleBlocks(kind: string, slices: readonly ChosenUnits[], rows: number): Block {
  const largest = Math.max(...slices.flatMap(({ chosen }) => chosen.slice(-1)))
  const { unit, of: columns = largest + 1 } = slices[0]!
  const total = slices.reduce((sum, { chosen }) => sum + chosen.length, 0)
  return {
    kind: 'grid',
    plot: {
      title: `${kind}: ${grouped(total)} ${unit}s in ${slices.length} layers`,
      description: `Which of ${grouped(columns)} ${unit}s train in each of ${rows} layers.`,
      xAxis: unit,
      yAxis: 'layer',
      columns,
      rows,
      cells: slices.flatMap((slice) => cellsOf(slice, columns)),
    },
  }
}

/** How much of each module trains in each layer; in units where the adapter knows no shares. */
function layerPlot(kinds: readonly string[], units: readonly ChosenUnits[], rows: number): Block {
  const shares = units.every(({ of }) => of !== undefined)
  const points = kinds.flatMap((series) =>
    Array.from({ length: rows }, (_, layer) => {
      const slice = units.find((found) => found.kind === series && found.layer === layer)
      const count = slice?.chosen.length ?? 0
      return { x: layer, y: shares && slice ? count / slice.of! : count, series }
    }),
  )
  return {
    kind: 'lines',
    plot: {
      title: shares ? 'Share of the units in each layer' : 'Units in each layer',
      description: 'How much of each module trains, by layer.',
      xAxis: 'layer',
      yAxis: shares ? 'share that trains' : 'units that train',
      xFormat: ',.0f',
      yFormat: shares ? '.1%' : ',.0f',
      scale: 'linear',
      points,
    },
  }
}

/** The page that `s2ft inspect --plot` writes. */
export function selectionPage(adapter: Adapter, info: S2ftAdapterInfo, where: string): Page {
  const units = chosenUnits(adapter)
  const rows = info.units?.layers ?? Math.max(...units.map(({ layer }) => layer)) + 1
  const kinds = MODULE_KINDS.filter((kind) => units.some((slice) => slice.kind === kind))
  const facts = Object.entries({
    base: info.baseModel,
    parameters: grouped(adapter.parameters),
    ...selectionFacts(info),
  })
  return {
    title: 'Heads and channels that train',
    lead:
      `Of the S²FT adapter in ${where}. A cell is one unit or, where there are more than ` +
      `${MOST_CELLS}, several: the darker, the larger the share of them that trains.`,
    sections: [
      {
        title: 'How they were chosen',
        blocks: [
          {
            kind: 'table',
            table: { caption: 'As the adapter records it', titles: ['what', 'value'], rows: facts },
          },
          layerPlot(kinds, units, rows),
        ],
      },
      {
        title: 'Which they are',
        blocks: kinds.map((kind) =>
          moduleBlocks(
            kind,
            units.filter((slice) => slice.kind === kind),
            rows,
          ),
        ),
      },
    ],
  }
}
