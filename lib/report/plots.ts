// Plots as static SVG text: bars with ranges, and lines with points. Vega-Lite draws them; it is
// an optional peer of the package, loaded with the first plot.
import type { TopLevelSpec } from 'vega-lite'
import { S2FTError } from '../errors.js'

/** Least and most, drawn as an error bar. */
export type Range = readonly [low: number, high: number]

/** Bars of one `label` stand together and differ by `series`. */
export interface Bar {
  label: string
  series?: string
  value: number
  range?: Range | undefined
}

/** A value to compare with, drawn across the plot. */
export interface Mark {
  value: number
  label: string
}

export interface Plot {
  title: string
  /** What is seen, for those who cannot see it. */
  description: string
}

export interface BarPlot extends Plot {
  axis: string
  /** How values are written, in d3's notation: `,.0f`, `.1%`, `.2f`. */
  format: string
  bars: readonly Bar[]
  marks?: readonly Mark[]
}

export interface Point {
  x: number
  y: number
  series: string
  range?: Range | undefined
}

export interface LinePlot extends Plot {
  xAxis: string
  yAxis: string
  xFormat: string
  yFormat: string
  /** Of both axes; on logarithmic ones every value must be above 0. */
  scale: 'linear' | 'log'
  points: readonly Point[]
}

export const WIDTH = 310
const LINE_HEIGHT = 250
export const BAR_HEIGHT = 18
const TICKS_BY_VALUE = 9
/** Characters of a legend's entry that leave room for others beside it. */
const SHORT_ENTRY = 16

/** Colours by series, as CSS variables that the page defines for light and dark. */
const colours = Array.from({ length: 8 }, (_, i) => `var(--series-${i + 1})`)

const ink = { labelColor: 'currentColor', titleColor: 'currentColor', labelFontSize: 13 }
export const config = {
  background: 'transparent',
  font: 'system-ui, sans-serif',
  padding: 4,
  view: { stroke: null },
  range: { category: colours },
  rule: { color: 'currentColor' },
  text: { color: 'currentColor', fontSize: 12 },
  axis: {
    ...ink,
    domainColor: 'currentColor',
    tickColor: 'currentColor',
    gridColor: 'currentColor',
    domainOpacity: 0.5,
    tickOpacity: 0.5,
    gridOpacity: 0.15,
    titleFontSize: 13,
    titleFontWeight: 'normal' as const,
    labelLimit: 240,
  },
  legend: { ...ink, orient: 'top' as const, labelLimit: 320 },
}

type Vega = typeof import('vega')
type VegaLite = typeof import('vega-lite')

/** Loads Vega. Throws UNSUPPORTED, with the command that installs it, where it is missing. */
export async function loadPlotting(): Promise<{ vega: Vega; lite: VegaLite }> {
  try {
    return { vega: await import('vega'), lite: await import('vega-lite') }
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw cause
    throw new S2FTError(
      'UNSUPPORTED',
      'drawing needs two packages that s2ft leaves to those who want it: npm install vega vega-lite',
      { cause },
    )
  }
}

/** As SVG text. Throws UNSUPPORTED as loadPlotting does. */
export async function draw(spec: TopLevelSpec): Promise<string> {
  const { vega, lite } = await loadPlotting()
  const view = new vega.View(vega.parse(lite.compile(spec).spec), { renderer: 'none' })
  try {
    return await view.toSVG()
  } finally {
    view.finalize()
  }
}

export function distinct<T>(values: readonly T[]): T[] {
  return [...new Set(values)]
}

/** The series' colours; a legend only where there is more than one. */
function colourOf(series: readonly string[]) {
  const columns = series.some((name) => name.length > SHORT_ENTRY) ? 1 : 3
  return {
    field: 'series',
    type: 'nominal' as const,
    scale: { domain: [...series] },
    legend: series.length > 1 ? { title: null, columns } : null,
  }
}

/** Horizontal bars from 0, each with its value and, where known, its range. */
export function barPlot(plot: BarPlot): Promise<string> {
  const series = distinct(plot.bars.map((bar) => bar.series ?? ''))
  const labels = plot.bars.map((bar) => bar.label)
  // Side by side only where every label has every series: missing bars would leave holes.
  const together = plot.bars.length === distinct(labels).length * series.length
  const values = plot.bars.map(({ label, series: own = '', value, range = [value, value] }) => {
    const alone = together || labels.indexOf(label) === labels.lastIndexOf(label)
    const row = alone ? label : `${label} ${own}`
    return { row, series: own, value, low: range[0], high: range[1] }
  })
  const grouped = together && series.length > 1
  const marks = plot.marks ?? []
  const place = {
    y: {
      field: 'row',
      type: 'nominal' as const,
      scale: { domain: distinct(values.map((bar) => bar.row)) },
      axis: { title: null, domain: false, ticks: false, labelPadding: 6 },
    },
    ...(grouped && { yOffset: { field: 'series', scale: { domain: series } } }),
  }
  const end = Math.max(0, ...values.map((bar) => bar.high), ...marks.map((mark) => mark.value))
  const x = {
    type: 'quantitative' as const,
    // Room for the figure beside the longest bar.
    scale: { domain: [0, end > 0 ? end * 1.15 : 1], nice: false },
    axis: { title: plot.axis, format: plot.format, tickCount: 5 },
  }
  return draw({
    config,
    width: WIDTH,
    height: { step: BAR_HEIGHT, for: grouped ? 'offset' : 'position' },
    data: { values },
    layer: [
      {
        mark: { type: 'bar', height: { band: 0.86 } },
        encoding: { ...place, x: { ...x, field: 'value' }, color: colourOf(series) },
      },
      {
        transform: [{ filter: 'datum.high > datum.low' }],
        mark: { type: 'rule', strokeWidth: 1.5 },
        encoding: { ...place, x: { ...x, field: 'low' }, x2: { field: 'high' } },
      },
      {
        mark: { type: 'text', align: 'left', dx: 4 },
        encoding: {
          ...place,
          x: { ...x, field: 'high' },
          text: { field: 'value', format: plot.format },
        },
      },
      {
        data: { values: [...marks] },
        mark: { type: 'rule', strokeDash: [4, 3] },
        encoding: { x: { ...x, field: 'value' } },
      },
      {
        data: { values: [...marks] },
        mark: { type: 'text', dy: -6 },
        encoding: { x: { ...x, field: 'value' }, y: { value: 0 }, text: { field: 'label' } },
      },
    ],
  })
}

/** One line a series through its points, in the order of x, with ranges where known. */
export function linePlot(plot: LinePlot): Promise<string> {
  const values = plot.points.map(({ x, y, series, range = [y, y] }) => {
    return { x, y, series, low: range[0], high: range[1] }
  })
  const color = colourOf(distinct(values.map((point) => point.series)))
  const scale =
    plot.scale === 'log' ? { type: 'log' as const, nice: false } : { type: 'linear' as const }
  const ticks = distinct(values.map((point) => point.x)).sort((a, b) => a - b)
  const x = {
    field: 'x',
    type: 'quantitative' as const,
    scale,
    axis: {
      title: plot.xAxis,
      format: plot.xFormat,
      labelOverlap: true,
      ...(ticks.length <= TICKS_BY_VALUE && { values: ticks }),
    },
  }
  const y = {
    field: 'y',
    type: 'quantitative' as const,
    scale,
    axis: { title: plot.yAxis, format: plot.yFormat, labelOverlap: true, tickCount: 6 },
  }
  return draw({
    config,
    width: WIDTH,
    height: LINE_HEIGHT,
    data: { values },
    layer: [
      {
        mark: { type: 'line', point: { filled: true, size: 36 } },
        encoding: { x, y, color },
      },
      {
        transform: [{ filter: 'datum.high > datum.low' }],
        mark: { type: 'rule', strokeWidth: 1.5 },
        encoding: { x, y: { ...y, field: 'low' }, y2: { field: 'high' }, color },
      },
    ],
  })
}
