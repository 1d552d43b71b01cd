// The report's part on memory: plan beside measured peak, and what recompute policies cost.
import { bytes, difference } from '../report/format.js'
import type { Block } from '../report/html.js'
import type { Bar } from '../report/plots.js'
import type { Line } from './lines.js'
import { ratioText } from './ratios.js'
import { bars, caseName, groupCases } from './report-cases.js'

type Memory = Line<'memory'>

function rowName(line: Memory): string {
  const parts = [caseName(line), line.dtype, line.recompute]
  return parts.filter((part) => part !== null).join(' ')
}

function groupBlocks(title: string, lines: readonly Memory[]): Block[] {
  const peers = [...new Set(lines.flatMap((line) => Object.keys(line.peakAgainst)))]
  const gigabytes = lines.flatMap((line): Bar[] => {
    const bar = (series: string, value: number | null) =>
      value === null ? [] : [{ label: rowName(line), series, value: value / 1e9 }]
    return [...bar('planned', line.plannedBytes), ...bar('measured', line.peakBytes)]
  })
  const costs = lines.flatMap((line): Bar[] => {
    const found = line.timeAgainstNone
    if (!found || line.recompute === 'none') return []
    return [{ label: rowName(line), value: found.median, range: found.range }]
  })
  return [
    {
      kind: 'table',
      table: {
        caption: `${title}, ${lines[0]!.threads} threads, ${lines[0]!.rounds} rounds`,
        titles: [
          'method',
          'type',
          'recompute',
          'planned',
          'peak',
          'plan is off by',
          'of the step',
          'step s',
          'time against none',
          'peak against none',
          ...peers.map((name) => `peak of ${name}'s`),
        ],
        rows: lines.map((line) => [
          caseName(line),
          line.dtype,
          line.recompute ?? '-',
          bytes(line.plannedBytes),
          bytes(line.peakBytes),
          difference(line.planDifference),
          bytes(line.stepBytes),
          line.seconds.toPrecision(3),
          ratioText(line.timeAgainstNone),
          ratioText(line.peakAgainstNone),
          ...peers.map((name) => ratioText(line.peakAgainst[name])),
        ]),
        right: [3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
      },
    },
    ...bars({
      title: `Memory, planned and measured: ${title}`,
      description: 'Peak memory that the plan predicts beside the measured one, in gigabytes.',
      axis: 'GB',
      format: '.2f',
      bars: gigabytes,
    }),
    ...bars({
      title: `Time of a step against recompute none: ${title}`,
      description: 'Step time of each policy relative to none: median, least and most.',
      axis: 'times the time',
      format: '.2f',
      bars: costs,
      marks: [{ value: 1, label: 'none' }],
    }),
  ]
}

export function memoryBlocks(lines: readonly Memory[]): Block[] {
  return groupCases(lines).flatMap((group) => groupBlocks(group.title, group.lines))
}
