// What a study's intervals show, in words: nothing is said where an interval holds zero.
import { grouped } from '../report/format.js'
import type { Block, Section } from '../report/html.js'
import { type Comparison, type Difference, type Shown, shownDifferences } from './rows.js'

/** A comparison with the words that introduce it. */
export interface Told {
  where: string
  comparison: Comparison
}

/** Sentences about intervals that leave out zero, and about nothing else. */
export function conclusions(told: readonly Told[]): string[] {
  const names = (entries: Shown['better']) =>
    entries.map(({ row, difference }) => `${row.name}${difference.firm ? '**' : ''}`).join('; ')
  return told.flatMap(({ where, comparison }) =>
    shownDifferences(comparison).map(({ metric, better, worse }) => {
      const sides = [
        ...(better.length > 0 ? [`better: ${names(better)}`] : []),
        ...(worse.length > 0 ? [`worse: ${names(worse)}`] : []),
      ]
      return `${where}, ${metric.name}, against ${comparison.reference.name}: ${sides.join('. ')}.`
    }),
  )
}

/** How much the intervals show, and what; empty where nothing was compared. */
export function conclusionsSection(told: readonly Told[]): Section[] {
  const differences = told.flatMap(({ comparison }) =>
    comparison.rows.flatMap((row) => row.differences.filter((one) => one?.interval)),
  )
  if (differences.length === 0) return []
  const count = (test: (one: Difference) => boolean) =>
    differences.filter((one) => test(one!)).length
  const lead =
    `Of ${grouped(differences.length)} differences ${grouped(count(({ shown }) => shown))} have a ` +
    '95 % interval that leaves out zero; ' +
    `${grouped(Math.round(differences.length / 20))} would by chance if there were none. ` +
    `${grouped(count(({ firm }) => firm))} still do when a figure's intervals are widened so that ` +
    'they hold for all its rows at once: these are marked **. Of all other differences these runs ' +
    'say nothing.'
  const items = conclusions(told)
  const list: Block[] = items.length > 0 ? [{ kind: 'list', items }] : []
  return [{ title: 'What the intervals show', blocks: [{ kind: 'text', text: lead }, ...list] }]
}
