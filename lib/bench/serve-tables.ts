// The figures of `s2ft bench serve` as titles and rows, for a page or a terminal.
import { between, bytes, grouped, percent } from '../report/format.js'
import type { Line } from './lines.js'
import { ratioText } from './ratios.js'

export interface Figures {
  titles: string[]
  rows: string[][]
  /** Columns of numbers. */
  right: number[]
}

const milliseconds = (seconds: number) => (1000 * seconds).toPrecision(3)

/** Columns after these names hold numbers. */
function figures(titles: string[], names: number[], rows: string[][]): Figures {
  return { titles, rows, right: titles.map((_, i) => i).filter((i) => !names.includes(i)) }
}

export function switchTable(lines: readonly Line<'serve-switch'>[]): Figures {
  const titles = ['width', 'method', 'type', 'parameters', 'fuse ms', 'switch ms', 'range']
  return figures(
    [...titles, 'unfuse ms', 'kept of the base', 'faster than LoRA by'],
    [1, 2],
    lines.map((line) => [
      grouped(line.width),
      line.method,
      line.dtype,
      grouped(line.parameters),
      milliseconds(line.fuseSeconds),
      milliseconds(line.switchSeconds),
      between(line.switchSecondsRange, milliseconds),
      milliseconds(line.unfuseSeconds),
      bytes(line.keptBytes),
      ratioText(line.loraRatio),
    ]),
  )
}

export function layerTable(lines: readonly Line<'serve-layer'>[]): Figures {
  const titles = ['adapters', 'method', 'type', 'parameters', 'memory', 'batch ms', 'range']
  return figures(
    [...titles, 'of it adapters', 'time of LoRA', "adapters' time of LoRA", 'memory of LoRA'],
    [1, 2],
    lines.map((line) => [
      grouped(line.adapters),
      line.method,
      line.dtype,
      grouped(line.parameters),
      bytes(line.residentBytes),
      milliseconds(line.seconds),
      between(line.secondsRange, milliseconds),
      milliseconds(line.adapterSeconds),
      ratioText(line.time),
      ratioText(line.adapterTime),
      ratioText(line.memory),
    ]),
  )
}

export function throughputTable(lines: readonly Line<'serve-throughput'>[]): Figures {
  const titles = ['in flight', 'method', 'type', 'parameters', 'tokens/s', 'range']
  return figures(
    [...titles, 'peak memory', 'of the base', 'range'],
    [1, 2],
    lines.map((line) => [
      grouped(line.inFlight),
      line.method,
      line.dtype,
      grouped(line.parameters),
      line.tokensPerSecond.toFixed(1),
      between(line.tokensPerSecondRange, (value) => value.toFixed(1)),
      bytes(line.peakBytes),
      percent(line.ofBase?.median),
      between(line.ofBase?.range, percent),
    ]),
  )
}

export function loadTable(lines: readonly Line<'serve-load'>[]): Figures {
  const titles = ['clients', 'adapters', 'type', 'requests', 'failed', 'tokens/s']
  const three = ({ p50, p95, p99 }: Line<'serve-load'>['token']) =>
    [p50, p95, p99].map(milliseconds).join(' / ')
  return figures(
    [
      ...titles,
      'first token ms (50 / 95 / 99%)',
      'token ms (50 / 95 / 99%)',
      'memory before',
      'after',
      'a minute',
      'pages before',
      'after',
    ],
    [2],
    lines.map((line) => [
      grouped(line.clients),
      grouped(line.adapters),
      line.dtype,
      grouped(line.requests),
      grouped(line.errors),
      line.tokensPerSecond.toFixed(1),
      three(line.firstToken),
      three(line.token),
      bytes(line.residentBefore),
      bytes(line.residentAfter),
      line.bytesPerMinute === null ? '-' : `${(line.bytesPerMinute / 1e6).toFixed(2)} MB`,
      grouped(line.pagesBefore),
      grouped(line.pagesAfter),
    ]),
  )
}

export function skippedText(line: Line<'serve-skipped'>): string {
  const { part, what, neededBytes, availableBytes } = line
  return `left out: ${part}, ${what}: expected ${bytes(neededBytes)} of memory, found ${bytes(availableBytes)}`
}
