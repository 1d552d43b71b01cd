// The tables and plots of a study's report: means, differences, spreads, learning rates.
import { grouped } from '../report/format.js'
import type { Block } from '../report/html.js'
import { atEdge, bestRate } from './rates.js'
import { type Comparison, type Difference, itemsOf, type Row, rowMean, type Sweep } from './rows.js'
import { deviation, type Estimate, mean } from './statistics.js'
import type { Metric } from './tracks.js'

const isShare = ({ quantity }: Metric) => quantity === 'chosen' || quantity === 'answered'

/** Losses in nats with four digits, shares in per cent with one. */
function figure(value: number, metric: Metric): string {
  return isShare(metric) ? `${(100 * value).toFixed(1)}%` : value.toFixed(4)
}

function signed(value: number, metric: Metric): string {
  return `${value < 0 ? '' : '+'}${figure(value, metric)}`
}

function meanText(estimate: Estimate | undefined, metric: Metric): string {
  if (!estimate) return '-'
  const { mean: value, interval } = estimate
  const half = interval ? ` ± ${figure((interval[1] - interval[0]) / 2, metric)}` : ''
  return `${figure(value, metric)}${half}`
}

function differenceText(difference: Difference | undefined, metric: Metric): string {
  if (!difference) return '-'
  const { mean: value, interval, shown, firm } = difference
  if (!interval) return signed(value, metric)
  const [low, high] = interval.map((bound) => signed(bound, metric))
  const mark = firm ? ' **' : shown ? ' *' : ''
  return `${signed(value, metric)} [${low}, ${high}]${mark}`
}

function runsText({ runs }: Row): string {
  const diverged = runs.filter(({ line }) => line.diverged).length
  return diverged === 0 ? String(runs.length) : `${runs.length}, ${diverged} diverged`
}

function from(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => first + i)
}

/** Metrics that at least one row has. */
export function knownMetrics(rows: readonly Row[], metrics: readonly Metric[]): Metric[] {
  return metrics.filter((metric) => rows.some((row) => rowMean(row, metric) !== undefined))
}

/** A line a row: mean over seeds, and how far its interval reaches. */
export function meanTable(
  caption: string,
  rows: readonly Row[],
  metrics: readonly Metric[],
  { training = true }: { training?: boolean } = {},
): Block {
  const own = training ? ['trained values', 'rate', 'runs', 's to train'] : ['runs']
  const about = (row: Row) => {
    const { trainable, kind } = row.runs[0]!.line
    const seconds = mean(row.runs.map(({ line }) => line.trainSeconds))
    return training
      ? [
          trainable === null ? '-' : grouped(trainable),
          row.learningRate === null ? '-' : String(row.learningRate),
          runsText(row),
          kind === 'train' ? seconds.toFixed(1) : '-',
        ]
      : [runsText(row)]
  }
  return {
    kind: 'table',
    table: {
      caption,
      titles: ['', ...own, ...metrics.map(({ name }) => name)],
      rows: rows.map((row) => [
        row.name,
        ...about(row),
        ...metrics.map((metric) => meanText(rowMean(row, metric), metric)),
      ]),
      right: from(1, own.length + metrics.length),
    },
  }
}

/** A line a row: how far it is from the reference, with its interval. */
export function differenceTable(caption: string, { metrics, rows }: Comparison): Block {
  return {
    kind: 'table',
    table: {
      caption,
      titles: ['', ...metrics.map(({ name }) => name)],
      rows: rows.map(({ row, differences }) => [
        row.name,
        ...differences.map((estimate, m) => differenceText(estimate, metrics[m]!)),
      ]),
      right: from(1, metrics.length),
    },
  }
}

/** The differences of every loss as dots; accuracies are too coarse to be seen. */
export function differencePlots(title: string, { reference, metrics, rows }: Comparison): Block[] {
  return metrics.flatMap((metric, m): Block[] => {
    if (isShare(metric)) return []
    const dots = rows.flatMap(({ row, differences }) => {
      const estimate = differences[m]
      if (!estimate) return []
      return [{ label: row.name, value: estimate.mean, range: estimate.interval }]
    })
    if (dots.length === 0) return []
    return [
      {
        kind: 'dots',
        plot: {
          title: `${title}: ${metric.name}, difference from ${reference.name}`,
          description: 'Dots are mean differences, lines their intervals; left of zero is better.',
          axis: 'nats',
          format: '.3~f',
          dots,
        },
      },
    ]
  })
}

/** Standard deviation over the runs of each row, with its interval. */
export function spreadTable(
  caption: string,
  rows: readonly Row[],
  metrics: readonly Metric[],
): Block {
  const text = (row: Row, metric: Metric) => {
    const means = row.runs.flatMap(({ line }) => {
      const items = itemsOf(line, metric)
      return items === undefined ? [] : [mean(items)]
    })
    const { mean: value, interval } = deviation(means)
    if (!interval) return '-'
    return `${figure(value, metric)} [${interval.map((bound) => figure(bound, metric)).join(', ')}]`
  }
  return {
    kind: 'table',
    table: {
      caption,
      titles: ['what changes', 'runs', ...metrics.map(({ name }) => name)],
      rows: rows.map((row) => [
        row.name,
        runsText(row),
        ...metrics.map((metric) => text(row, metric)),
      ]),
      right: from(1, metrics.length + 1),
    },
  }
}

/** Validation losses by rate, the chosen one marked; a line plot of the same. */
export function rateBlocks(track: string, sweeps: readonly Sweep[]): Block[] {
  const rates = [...new Set(sweeps.flatMap(({ tried }) => [...tried.keys()]))].sort((a, b) => a - b)
  const text = ({ tried }: Sweep, rate: number) => {
    const loss = tried.get(rate)
    if (loss === undefined) return ''
    const mark = bestRate(tried) === rate ? ' *' : ''
    return Number.isFinite(loss) ? `${loss.toFixed(4)}${mark}` : 'diverged'
  }
  const edges = sweeps.filter(({ tried }) => atEdge(tried)).map(({ name }) => name)
  const blocks: Block[] = [
    {
      kind: 'table',
      table: {
        caption: `Validation loss by learning rate, ${track}, seed 0; * is taken`,
        titles: ['', ...rates.map(String)],
        rows: sweeps.map((sweep) => [sweep.name, ...rates.map((rate) => text(sweep, rate))]),
        right: from(1, rates.length),
      },
    },
  ]
  if (edges.length > 0) {
    const text = `The best rate is the least or the largest tried for: ${edges.join(', ')}.`
    blocks.push({ kind: 'text', text })
  }
  const points = sweeps.flatMap(({ name, tried }) =>
    [...tried]
      .filter(([, loss]) => Number.isFinite(loss) && loss > 0)
      .map(([rate, loss]) => ({ x: rate, y: loss, series: name })),
  )
  blocks.push({
    kind: 'lines',
    plot: {
      title: `Learning rates, ${track}`,
      description: 'Validation loss after training with each rate, both in logarithms.',
      xAxis: 'learning rate',
      yAxis: 'validation loss',
      xFormat: '.0e',
      yFormat: '.2f',
      scale: 'log',
      points,
    },
  })
  return blocks
}
