// A grid of cells, darker where more of what a cell stands for is there.
import { config, draw, type Plot } from './plots.js'

/** Part of a row, from `begin` up to `end`; `share` of it is there, above 0 up to 1. */
export interface Cell {
  row: number
  begin: number
  end: number
  share: number
}

export interface GridPlot extends Plot {
  xAxis: string
  yAxis: string
  /** Length of a row. */
  columns: number
  /** Rows from the top. */
  rows: number
  cells: readonly Cell[]
}

const WIDTH = 560
const ROW_HEIGHT = 18
const TALLEST = 480

/** Cells that are empty are left blank. */
export function gridPlot({ xAxis, yAxis, columns, rows, cells }: GridPlot): Promise<string> {
  const partial = cells.some(({ share }) => share < 1)
  return draw({
    config,
    width: WIDTH,
    height: { step: Math.max(2, Math.min(ROW_HEIGHT, TALLEST / rows)) },
    data: { values: [...cells] },
    mark: { type: 'rect', color: 'var(--series-1)', aria: false },
    encoding: {
      x: {
        field: 'begin',
        type: 'quantitative',
        scale: { domain: [0, columns], nice: false },
        axis: { title: xAxis, format: ',.0f', tickMinStep: 1, grid: false },
      },
      x2: { field: 'end' },
      y: {
        field: 'row',
        type: 'ordinal',
        scale: { domain: Array.from({ length: rows }, (_, row) => row), paddingInner: 0.15 },
        axis: { title: yAxis, labelOverlap: true },
      },
      opacity: {
        field: 'share',
        type: 'quantitative',
        scale: { domain: [0, 1], range: [0.1, 1] },
        legend: partial
          ? { title: 'share chosen', format: '.0%', values: [0.25, 0.5, 0.75, 1] }
          : null,
      },
    },
  })
}
