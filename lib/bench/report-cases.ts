// What the report shows of cases that were measured in turn: table, bars, ratios with spread.
import { basename } from 'node:path'
import { bytes } from '../report/format.js'
import type { Block } from '../report/html.js'
import type { Bar, BarPlot } from '../report/plots.js'
import type { CaseRatio, Line } from './lines.js'
import { ratioCells, ratiosTo } from './ratios.js'

/** What tells cases of a run apart. */
export type Identity = Pick<Line<'case'>, 'method' | 'variant' | 'dtype' | 'batch'>

/** `peft-lora7 tuned`: a case's name among others of one element type. */
export function caseName({ method, variant }: Pick<Identity, 'method' | 'variant'>): string {
  return variant === null || variant === 'eager' ? method : `${method} ${variant}`
}

/** Lines of one model and one shape of step, in the order of the run. */
export function groupCases<T extends Pick<Line<'case'>, 'model' | 'batch' | 'sequence'>>(
  lines: readonly T[],
): { title: string; lines: T[] }[] {
  const groups = new Map<string, T[]>()
  for (const line of lines) {
    const title = `${modelName(line.model)}, ${line.batch} x ${line.sequence} tokens`
    groups.set(title, [...(groups.get(title) ?? []), line])
  }
  return [...groups].map(([title, list]) => ({ title, lines: list }))
}

/** A shape's name, or the last part of a directory's. */
export function modelName(model: string): string {
  return basename(model)
}

/** A plot, unless there is nothing to draw. */
export function bars(plot: BarPlot): Block[] {
  return plot.bars.length > 0 ? [{ kind: 'bars', plot }] : []
}

type CaseLine = Identity & { peakBytes: number | null }

/** Cases of one run to set side by side; the first is the one that ratios are about. */
export interface Comparison<T extends CaseLine> {
  title: string
  caption: string
  lines: readonly T[]
  ratios: readonly CaseRatio[]
  /** Of the table, between the names and the memory. */
  columns: readonly (readonly [title: string, cell: (line: T) => string])[]
  /** The bars' labels; lines with the same label differ by element type. */
  label: (line: T) => string
  plots: readonly {
    title: string
    description: string
    axis: string
    format: string
    of: (line: T) => Pick<Bar, 'value' | 'range'> | undefined
  }[]
}

/** Table and plots of a comparison. */
export function compareBlocks<T extends CaseLine>(comparison: Comparison<T>): Block[] {
  const { title, caption, lines, columns, label } = comparison
  const first = lines[0]!
  const name = `${caseName(first)} ${first.dtype}`
  const found = lines.map((line) => ratiosTo(comparison.ratios, line))
  const titles = [
    ...['method', 'type', ...columns.map((column) => column[0]), 'peak memory'],
    ...[`${name} is faster by`, 'range', 'with memory of', 'range'],
  ]
  const rows = lines.map((line, i) => [
    ...[caseName(line), line.dtype, ...columns.map((column) => column[1](line))],
    bytes(line.peakBytes),
    ...[...ratioCells(found[i]!.speed), ...ratioCells(found[i]!.memory)],
  ])
  const barsOf = (of: (line: T, i: number) => Pick<Bar, 'value' | 'range'> | undefined) =>
    lines.flatMap((line, i): Bar[] => {
      const bar = of(line, i)
      return bar ? [{ label: label(line), series: line.dtype, ...bar }] : []
    })
  const ratioBars = (of: (i: number) => CaseRatio | undefined) =>
    barsOf((_, i) => {
      const line = of(i)
      return line && { value: line.ratio, range: line.ratioRange }
    })
  const shared = { axis: 'times', format: '.2f', marks: [{ value: 1, label: 'equal' }] }
  return [
    {
      kind: 'table',
      table: { caption, titles, rows, right: titles.map((_, i) => i).slice(2) },
    },
    ...comparison.plots.flatMap(({ of, ...plot }) =>
      bars({ ...plot, title: `${plot.title}: ${title}`, bars: barsOf(of) }),
    ),
    ...bars({
      title: `Peak memory: ${title}`,
      description: 'Most resident memory of each case during training, in gigabytes.',
      axis: 'GB',
      format: '.2f',
      bars: barsOf(({ peakBytes }) =>
        peakBytes === null ? undefined : { value: peakBytes / 1e9 },
      ),
    }),
    ...bars({
      ...shared,
      title: `Speed of ${name} relative to others: ${title}`,
      description: 'Ratios of speeds, round by round: median, least and most. Above 1 is faster.',
      bars: ratioBars((i) => found[i]!.speed),
    }),
    ...bars({
      ...shared,
      title: `Memory of ${name} relative to others: ${title}`,
      description: 'Ratios of peaks, round by round: median, least and most. Below 1 is leaner.',
      bars: ratioBars((i) => found[i]!.memory),
    }),
  ]
}
