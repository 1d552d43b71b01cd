// The report's part on single operations.
import { between, percent, times } from '../report/format.js'
import type { Block } from '../report/html.js'
import type { Line, OpRatio } from './lines.js'

type Op = Line<'op'>

const milliseconds = (seconds: number) => (1000 * seconds).toPrecision(3)
const rate = (value: number) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3))

function groupPlot(group: string, ops: readonly Op[]): Block {
  return {
    kind: 'bars',
    plot: {
      title: `Share of peak: ${group}`,
      description:
        'Each operation relative to the peak GFLOP/s of the run, or where memory limits it to ' +
        'the peak GB/s, with least and most of its rounds.',
      axis: 'share of peak',
      format: '.0%',
      bars: ops.map(({ op, dtype, shareOfPeak, seconds, secondsRange: [least, most] }) => ({
        label: op,
        series: dtype,
        value: shareOfPeak,
        range: [(shareOfPeak * seconds) / most, (shareOfPeak * seconds) / least],
      })),
    },
  }
}

function opsTable(ops: readonly Op[], peaks: readonly Line<'peak'>[]): Block {
  const peak = peaks.map(({ gflops, gbps }) => `${rate(gflops)} GFLOP/s, ${rate(gbps)} GB/s`)
  return {
    kind: 'table',
    table: {
      caption: `Single operations; measured peak ${peak.join('; ') || 'unknown'}`,
      titles: ['operation', 'group', 'type', 'ms', 'range', 'GFLOP/s', 'GB/s', 'of peak'],
      rows: ops.map((op) => [
        op.op,
        op.group,
        op.dtype,
        milliseconds(op.seconds),
        between(op.secondsRange, milliseconds),
        op.gflops === null ? '-' : rate(op.gflops),
        rate(op.gbps),
        percent(op.shareOfPeak),
      ]),
      right: [3, 4, 5, 6, 7],
    },
  }
}

function ratioBlocks(ratios: readonly OpRatio[]): Block[] {
  if (ratios.length === 0) return []
  const table: Block = {
    kind: 'table',
    table: {
      caption: 'Published kernels against their counterparts, round by round',
      titles: ['kernel', 'is faster than', 'type', 'by', 'range'],
      rows: ratios.map((line) => [
        line.op,
        line.against,
        line.dtype,
        times(line.ratio),
        between(line.ratioRange),
      ]),
      right: [3, 4],
    },
  }
  const plot: Block = {
    kind: 'bars',
    plot: {
      title: 'Kernels: times as fast',
      description: 'Time of the counterpart relative to the kernel: median, least and most.',
      axis: 'times as fast',
      format: '.2f',
      bars: ratios.map(({ op, against, dtype, ratio, ratioRange }) => ({
        label: `${op} / ${against}`,
        series: dtype,
        value: ratio,
        range: ratioRange,
      })),
      marks: [{ value: 1, label: 'equal' }],
    },
  }
  return [table, plot]
}

export function opsBlocks(
  ops: readonly Op[],
  peaks: readonly Line<'peak'>[],
  ratios: readonly OpRatio[],
): Block[] {
  const groups = [...new Set(ops.map((op) => op.group))].filter((group) => group !== 'copy')
  const plots = groups.map((group) =>
    groupPlot(
      group,
      ops.filter((op) => op.group === group),
    ),
  )
  return [...(ops.length > 0 ? [opsTable(ops, peaks)] : []), ...plots, ...ratioBlocks(ratios)]
}
