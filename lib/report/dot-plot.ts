// Values of either sign as dots with ranges, beside a line at zero.
import { BAR_HEIGHT, config, distinct, draw, type Plot, type Range, WIDTH } from './plots.js'

export interface Dot {
  label: string
  value: number
  range?: Range | undefined
}

export interface DotPlot extends Plot {
  axis: string
  /** How values are written, in d3's notation. */
  format: string
  dots: readonly Dot[]
}

/** One row a label; the axis always shows zero. */
export function dotPlot({ axis, format, dots }: DotPlot): Promise<string> {
  const values = dots.map(({ label, value, range = [value, value] }) => {
    return { label, value, low: range[0], high: range[1] }
  })
  const y = {
    field: 'label',
    type: 'nominal' as const,
    scale: { domain: distinct(values.map(({ label }) => label)) },
    axis: { title: null, domain: false, ticks: false, labelPadding: 6, grid: true },
  }
  const x = {
    type: 'quantitative' as const,
    scale: { zero: true },
    axis: { title: axis, format, tickCount: 5 },
  }
  return draw({
    config,
    width: WIDTH,
    height: { step: BAR_HEIGHT },
    data: { values },
    layer: [
      {
        data: { values: [{ zero: 0 }] },
        mark: { type: 'rule', strokeDash: [4, 3] },
        encoding: { x: { ...x, field: 'zero' } },
      },
      {
        mark: { type: 'rule', strokeWidth: 1.5 },
        encoding: { y, x: { ...x, field: 'low' }, x2: { field: 'high' } },
      },
      {
        mark: { type: 'point', filled: true, size: 50, opacity: 1, color: 'var(--series-1)' },
        encoding: { y, x: { ...x, field: 'value' } },
      },
    ],
  })
}
