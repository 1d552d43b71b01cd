// The report's part on growth: time and memory against size, in logarithms, with exponents.
import { between, bytes, difference, grouped, percent } from '../report/format.js'
import type { Block } from '../report/html.js'
import type { Point } from '../report/plots.js'
import type { Line } from './lines.js'

type Growth = Line<'growth'>
type Fit = Line<'growth-fit'>
type Skipped = Line<'growth-skipped'>

const seconds = (value: number) => value.toPrecision(3)
const amount = (x: number) => (Number.isInteger(x) ? grouped(x) : String(x))

/** What is drawn of memory: loading keeps private and mapped bytes apart. */
const quantities: readonly { field: 'peakBytes' | 'stepBytes' | 'privateBytes'; name: string }[] = [
  { field: 'peakBytes', name: 'peak' },
  { field: 'stepBytes', name: 'of the step' },
  { field: 'privateBytes', name: 'private' },
]

function axisTable(axis: string, lines: readonly Growth[]): Block {
  const unit = lines[0]!.unit
  const steps = lines.some((line) => line.tokensPerSecond !== undefined)
  const head = ['series', unit, 'seconds', 'range']
  const place = (line: Growth) => [
    line.series,
    amount(line.x),
    seconds(line.seconds),
    between(line.secondsRange, seconds),
  ]
  const titles = steps
    ? [...head, 'tokens/s', 'of peak', 'planned', 'peak', 'plan is off by', 'of the step']
    : [...head, 'GB/s', 'private', 'mapped', 'peak']
  const rows = lines.map((line) =>
    steps
      ? [
          ...place(line),
          line.tokensPerSecond?.toFixed(0) ?? '-',
          percent(line.shareOfPeak),
          bytes(line.plannedBytes),
          bytes(line.peakBytes),
          difference(line.planDifference),
          bytes(line.stepBytes),
        ]
      : [
          ...place(line),
          line.bytesPerSecond === undefined ? '-' : (line.bytesPerSecond / 1e9).toFixed(2),
          bytes(line.privateBytes),
          bytes(line.mappedBytes),
          bytes(line.peakBytes),
        ],
  )
  const right = titles.flatMap((_, i) => (i === 0 ? [] : [i]))
  return { kind: 'table', table: { caption: `Growth with ${axis}`, titles, rows, right } }
}

/** Shares as per cent, counts as they are, bytes with a prefix. */
function formatOf(lines: readonly Growth[]): string {
  const most = Math.max(...lines.map((line) => line.x))
  if (most <= 1) return '.1~%'
  return most < 1e6 ? ',.0f' : '.3~s'
}

function axisPlots(axis: string, lines: readonly Growth[]): Block[] {
  const shared = { xAxis: lines[0]!.unit, scale: 'log' as const, xFormat: formatOf(lines) }
  const time = lines
    .filter(({ x, seconds }) => x > 0 && seconds > 0)
    .map(({ x, series, seconds, secondsRange }) => ({ x, series, y: seconds, range: secondsRange }))
  const memory = quantities.flatMap(({ field, name }) =>
    lines.flatMap((line): Point[] => {
      const value = line[field]
      if (typeof value !== 'number' || value <= 0 || line.x <= 0) return []
      return [{ x: line.x, y: value, series: `${line.series}, ${name}` }]
    }),
  )
  const blocks: Block[] = [
    {
      kind: 'lines',
      plot: {
        ...shared,
        title: `Time against ${axis}`,
        description: `Seconds against ${shared.xAxis}, both logarithmic, with least and most.`,
        yAxis: 'seconds',
        yFormat: '~g',
        points: time,
      },
    },
    {
      kind: 'lines',
      plot: {
        ...shared,
        title: `Memory against ${axis}`,
        description: `Bytes against ${shared.xAxis}, both logarithmic.`,
        yAxis: 'bytes',
        yFormat: '.3~s',
        points: memory,
      },
    },
  ]
  return blocks.filter((block) => block.kind === 'lines' && block.plot.points.length > 1)
}

function fitTable(fits: readonly Fit[]): Block {
  return {
    kind: 'table',
    table: {
      caption:
        'How quantities grow: quantity ~ x to the power of the exponent, over the last points',
      titles: ['axis', 'series', 'quantity', 'exponent', 'points', 'from', 'to'],
      rows: fits.map((fit) => [
        fit.axis,
        fit.series,
        fit.quantity,
        fit.exponent.toFixed(2),
        String(fit.points),
        amount(fit.from),
        amount(fit.to),
      ]),
      right: [3, 4, 5, 6],
    },
  }
}

function skippedText({ axis, series, x, unit, lacks, neededBytes, availableBytes }: Skipped) {
  const room = `${bytes(neededBytes)} of ${lacks} needed, ${bytes(availableBytes)} there`
  return `Not measured: ${axis}, ${series}, ${amount(x)} ${unit}: ${room}`
}

export function growthBlocks(
  lines: readonly Growth[],
  fits: readonly Fit[],
  skipped: readonly Skipped[],
): Block[] {
  const axes = [...new Set(lines.map((line) => line.axis))]
  const blocks = axes.flatMap((axis) => {
    const own = lines.filter((line) => line.axis === axis)
    return [axisTable(axis, own), ...axisPlots(axis, own)]
  })
  if (fits.length > 0) blocks.push(fitTable(fits))
  if (skipped.length > 0) blocks.push({ kind: 'list', items: skipped.map(skippedText) })
  return blocks
}
