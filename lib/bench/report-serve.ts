// The report's part on serving: switching, resident adapters, and throughput, against LoRA.
import type { Block, Table } from '../report/html.js'
import type { Point } from '../report/plots.js'
import { linesOf, type Run } from './read-results.js'
import { layerTable, loadTable, skippedText, switchTable, throughputTable } from './serve-tables.js'

function tableBlock(caption: string, table: Omit<Table, 'caption'>): Block {
  return { kind: 'table', table: { caption, ...table } }
}

/** A plot over sizes; with one size there is nothing to draw. */
function plotBlocks<L extends { method: string; dtype: string }>(
  lines: readonly L[],
  names: { title: string; xAxis: string; yAxis: string },
  value: (line: L) => Omit<Point, 'series'>,
): Block[] {
  const points = lines.map((line) => ({ ...value(line), series: `${line.method} ${line.dtype}` }))
  if (new Set(points.map(({ x }) => x)).size < 2) return []
  const description = `${names.yAxis}, both logarithmic, with least and most of the rounds.`
  const format = { scale: 'log', xFormat: ',.0f', yFormat: '~g' } as const
  return [{ kind: 'lines', plot: { ...names, ...format, description, points } }]
}

function switchBlocks(run: Run): Block[] {
  const lines = linesOf(run, 'serve-switch')
  if (lines.length === 0) return []
  const names = { title: 'Time of a switch against width', xAxis: 'width', yAxis: 'seconds' }
  return [
    tableBlock('One adapter out of a weight and another in, for one weight', switchTable(lines)),
    ...plotBlocks(lines, names, ({ width, switchSeconds, switchSecondsRange }) => {
      return { x: width, y: switchSeconds, range: switchSecondsRange }
    }),
  ]
}

function layerBlocks(run: Run): Block[] {
  const lines = linesOf(run, 'serve-layer')
  const [first] = lines
  if (!first) return []
  const title = 'Time of a batch against resident adapters'
  const caption = `A layer of width ${first.width}, ${first.batch} requests with adapters of their own`
  return [
    tableBlock(caption, layerTable(lines)),
    ...plotBlocks(
      lines,
      { title, xAxis: 'resident adapters', yAxis: 'seconds' },
      ({ adapters, seconds, secondsRange }) => ({ x: adapters, y: seconds, range: secondsRange }),
    ),
  ]
}

function throughputBlocks(run: Run): Block[] {
  const lines = linesOf(run, 'serve-throughput')
  const [first] = lines
  if (!first) return []
  const title = 'Throughput against sequences in flight'
  return [
    tableBlock(`Decoding ${first.model}, every sequence with its adapter`, throughputTable(lines)),
    ...plotBlocks(lines, { title, xAxis: 'sequences', yAxis: 'tokens/s' }, (line) => {
      return { x: line.inFlight, y: line.tokensPerSecond, range: line.tokensPerSecondRange }
    }),
  ]
}

function loadBlocks(run: Run): Block[] {
  const lines = linesOf(run, 'serve-load')
  if (lines.length === 0) return []
  const failed = lines.flatMap(({ firstError }) => firstError ?? [])
  const list: Block[] = failed.length > 0 ? [{ kind: 'list', items: failed }] : []
  const caption = `${lines[0]!.model} under load by HTTP: latency as clients see it`
  return [tableBlock(caption, loadTable(lines)), ...list]
}

export function serveBlocks(run: Run): Block[] {
  const skipped = linesOf(run, 'serve-skipped')
  const left: Block[] =
    skipped.length > 0 ? [{ kind: 'list', items: skipped.map(skippedText) }] : []
  return [
    ...switchBlocks(run),
    ...layerBlocks(run),
    ...throughputBlocks(run),
    ...loadBlocks(run),
    ...left,
  ]
}
