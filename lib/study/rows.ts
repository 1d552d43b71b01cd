// A study's results as rows of tables: each a variant, with the lines of its seeds.

import { caseKey } from './cases.js'
import type { CaseLine } from './lines.js'
import { type Part, type Planned, parts, validationLoss, walkPlan } from './plan.js'
import type { Tried } from './rates.js'
import type { StudySettings } from './settings.js'
import {
  type Estimate,
  excludesZero,
  jointLevel,
  pairedDifference,
  type SeedItems,
  seedMean,
} from './statistics.js'
import type { StudyStore } from './store.js'
import type { Metric, Track } from './tracks.js'

/** One run of a row; `seed` pairs it with those of other rows. */
export interface SeedLine {
  seed: number
  line: CaseLine
}

export interface Row {
  part: Part
  track: Track
  name: string
  /** null where nothing trains, or several rates meet. */
  learningRate: number | null
  runs: SeedLine[]
}

/** Validation losses of one variant. */
export interface Sweep {
  track: Track
  name: string
  tried: Tried
}

export interface StudyRows {
  rows: Row[]
  sweeps: Sweep[]
}

/** Gathers what is known of the whole plan. */
export async function studyRows(
  store: StudyStore,
  settings: StudySettings,
  seeds: number,
): Promise<StudyRows> {
  const rows = new Map<string, Row>()
  const sweeps = new Map<string, Sweep & { tried: Map<number, number> }>()
  const place = ({ part, track, row, case: spec }: Planned, line: CaseLine) => {
    const key = `${part} ${track} ${row}`
    if (part === 'rates') {
      const sweep = sweeps.get(key) ?? { track, name: row, tried: new Map() }
      if (spec.kind === 'train') sweep.tried.set(spec.learningRate, validationLoss(line))
      sweeps.set(key, sweep)
      return
    }
    if (part === 'adapters') return
    const learningRate = spec.kind === 'train' ? spec.learningRate : null
    const found = rows.get(key) ?? { part, track, name: row, learningRate, runs: [] }
    const seed = spec.kind === 'base' ? 0 : spec.kind === 'train' ? spec.order : spec.seed
    found.runs.push({ seed, line })
    rows.set(key, found)
  }
  await walkPlan({ settings, seeds, only: parts }, (planned) => {
    const key = caseKey(planned.case)
    const line = store.cases.get(key)
    if (line) place(planned, line)
    return line ?? (store.failures.has(key) ? 'failed' : 'pending')
  })
  return { rows: [...rows.values()], sweeps: [...sweeps.values()] }
}

/** Item values of a metric; undefined where a set was not scored that way. */
export function itemsOf({ scores }: CaseLine, { quantity, sets }: Metric): number[] | undefined {
  const lists = sets.map((name) => scores[name]?.[quantity])
  return lists.every((list) => list !== undefined) ? lists.flat() : undefined
}

/** Runs that a metric is known of. */
function measured(row: Row, metric: Metric): { seed: number; items: number[] }[] {
  return row.runs.flatMap(({ seed, line }) => {
    const items = itemsOf(line, metric)
    return items === undefined ? [] : [{ seed, items }]
  })
}

export function rowMean(row: Row, metric: Metric): Estimate | undefined {
  const runs = measured(row, metric)
  return runs.length === 0 ? undefined : seedMean(runs.map(({ items }) => items))
}

/**
 * The row less the reference, over the seeds that both have. The untrained model has no seeds and
 * stands against each.
 */
export function rowDifference(
  row: Row,
  reference: Row,
  metric: Metric,
  level: number,
): Estimate | undefined {
  const others = measured(reference, metric)
  const fixed = reference.name === 'base' ? others[0] : undefined
  const pairs = measured(row, metric).flatMap(({ seed, items }) => {
    const other = fixed ?? others.find((run) => run.seed === seed)
    return other === undefined ? [] : [[items, other.items] as const]
  })
  if (pairs.length === 0) return undefined
  const side = (i: 0 | 1): SeedItems => pairs.map((pair) => pair[i])
  return pairedDifference(side(0), side(1), level)
}

export interface Difference extends Estimate {
  /** The 95 % interval leaves out zero. */
  shown: boolean
  /** So does a wider one, which holds for all rows of the metric at once. */
  firm: boolean
}

/** Rows against one of them. */
export interface Comparison {
  reference: Row
  metrics: readonly Metric[]
  rows: { row: Row; differences: (Difference | undefined)[] }[]
}

export function compare(
  rows: readonly Row[],
  reference: Row,
  metrics: readonly Metric[],
): Comparison {
  const others = rows.filter((row) => row !== reference && row.name !== 'base')
  const level = jointLevel(others.length)
  const difference = (row: Row, metric: Metric): Difference | undefined => {
    const single = rowDifference(row, reference, metric, 0.95)
    if (!single) return undefined
    const joint = rowDifference(row, reference, metric, level)!
    return { ...single, shown: excludesZero(single), firm: excludesZero(joint) }
  }
  const found = others.map((row) => ({
    row,
    differences: metrics.map((metric) => difference(row, metric)),
  }))
  return { reference, metrics, rows: found }
}

/** Rows of one metric whose difference is shown. */
export interface Shown {
  metric: Metric
  better: { row: Row; difference: Difference }[]
  worse: { row: Row; difference: Difference }[]
}

/** What the intervals of a comparison show, metric by metric. */
export function shownDifferences({ metrics, rows }: Comparison): Shown[] {
  return metrics.flatMap((metric, m) => {
    const shown = rows.flatMap(({ row, differences }) => {
      const difference = differences[m]
      return difference?.shown ? [{ row, difference }] : []
    })
    if (shown.length === 0) return []
    const isBetter = ({ difference }: { difference: Difference }) =>
      metric.better === 'higher' ? difference.mean > 0 : difference.mean < 0
    return [
      {
        metric,
        better: shown.filter(isBetter),
        worse: shown.filter((entry) => !isBetter(entry)),
      },
    ]
  })
}
