// The report's part on serving: switching, resident adapters, and throughput, against LoRA.
import type { Block, Table } from '../report/html.js'
import type { LinePlot, Point } from '../report/plots.js'
import { linesOf, type Run } from './read-results.js'
import { layerTable, loadTable, skippedText, switchTable, throughputTable } from './serve-tables.js'

function tableBlock(caption: string, table: Omit<Table, 'caption'>): Block {
  return { kind: 'table', table: { caption, ...table } }
}

/** A plot over sizes; with one size there is nothing to draw. */
function plotBlock(plot: Omit<LinePlot, 'scale' | 'xFormat' | 'yFormat'>): Block[] {
  if (new Set(plot.points.map(({ x }) => x)).size < 2) return []
  return [{ kind: 'lines', plot: { ...plot, scale: 'log', xFormat: ',.0f', yFormat: '~g' } }]
}

const series = ({ method, dtype }: { method: string; dtype: string }) => `${method} ${dtype}`

function switchBlocks(run: Run): Block[] {
  const lines = linesOf(run, 'serve-switch')
  if (lines.length === 0) return []
  const points = lines.map((line): Point => {
    const { width, switchSeconds, switchSecondsRange } = line
    return { x: width, series: series(line), y: switchSeconds, range: switchSecondsRange }
  })
  return [
    tableBlock('One adapter out of a weight and another in, for one weight', switchTable(lines)),
    ...plotBlock({
      title: 'Time of a switch against width',
      description: 'Seconds for one weight, both logarithmic, with least and most of the rounds.',
      xAxis: 'width',
      yAxis: 'seconds',
      points,
    }),
  ]
}

function layerBlocks(run: Run): Block[] {
  const lines = linesOf(run, 'serve-layer')
  const [first] = lines
  if (!first) return []
  const points = lines.map((line): Point => {
    return { x: line.adapters, series: series(line), y: line.seconds, range: line.secondsRange }
  })
  const caption = `A layer of width ${first.width}, ${first.batch} requests with adapters of their own`
  return [
    tableBlock(caption, layerTable(lines)),
    ...plotBlock({
      title: 'Time of a batch against resident adapters',
      description: 'Seconds for one batch, both logarithmic, with least and most of the rounds.',
      xAxis: 'resident adapters',
      yAxis: 'seconds',
      points,
    }),
  ]
}

function throughputBlocks(run: Run): Block[] {
  const lines = linesOf(run, 'serve-throughput')
  const [first] = lines
  if (!first) return []
  const points = lines.map((line): Point => {
    const { inFlight, tokensPerSecond, tokensPerSecondRange } = line
    return { x: inFlight, series: series(line), y: tokensPerSecond, range: tokensPerSecondRange }
  })
  return [
    tableBlock(`Decoding ${first.model}, every sequence with its adapter`, throughputTable(lines)),
    ...plotBlock({
      title: 'Throughput against sequences in flight',
      description: 'Tokens a second, both logarithmic, with least and most of the rounds.',
      xAxis: 'sequences',
      yAxis: 'tokens/s',
      points,
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
