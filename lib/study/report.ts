// A study's results as a page: what was run, tables, plots, and what their intervals show.
import type { Block, Page, Section } from '../report/html.js'
import { conclusionsSection, type Told } from './conclusions.js'
import type { Part } from './plan.js'
import { studySection } from './report-facts.js'
import {
  differencePlots,
  differenceTable,
  knownMetrics,
  meanTable,
  rateBlocks,
  spreadTable,
} from './report-tables.js'
import { compare, type Row, type Sweep, studyRows } from './rows.js'
import { type Preset, studySettings } from './settings.js'
import type { StudyStore } from './store.js'
import {
  farMetrics,
  type Metric,
  setMetrics,
  type Track,
  testSets,
  trackMetrics,
  tracks,
} from './tracks.js'

const variationTitles: readonly [Part, string][] = [
  ['selection', 'Which units'],
  ['allocation', 'Which layers'],
  ['components', 'Which modules'],
]

function compared(where: string, rows: readonly Row[], reference: Row, metrics: readonly Metric[]) {
  const comparison = compare(rows, reference, knownMetrics(rows, metrics))
  return comparison.rows.length === 0 ? [] : [{ where, comparison }]
}

function differenceBlocks({ where, comparison }: Told, plots: boolean): Block[] {
  const { reference } = comparison
  const table = differenceTable(`${where}: difference from ${reference.name}`, comparison)
  return [table, ...(plots ? differencePlots(where, comparison) : [])]
}

/** The methods of one track: means, single sets, and differences from S²FT and the base. */
function methodsSection(track: Track, all: readonly Row[]): { section?: Section; told: Told[] } {
  const rows = all.filter((row) => row.part === 'methods' && row.track === track)
  if (rows.length === 0) return { told: [] }
  const metrics = knownMetrics(rows, [...trackMetrics[track], ...farMetrics])
  const sets = knownMetrics(rows, setMetrics(testSets[track]))
  const told = ['s2ft', 'base'].flatMap((name) => {
    const reference = rows.find((row) => row.name === name)
    return reference ? compared(`Methods, ${track}`, rows, reference, metrics) : []
  })
  const blocks: Block[] = [
    meanTable(`Methods, ${track}: mean over seeds ± half of its 95 % interval`, rows, metrics),
    meanTable(`Methods, ${track}: single test sets`, rows, sets, { training: false }),
    ...told.flatMap((one, i) => differenceBlocks(one, i === 0)),
  ]
  return { section: { title: `Methods, ${track}`, blocks }, told }
}

/** S²FT's variations against the way it comes, which is the first row. */
function variationSection(
  part: Part,
  title: string,
  all: readonly Row[],
  far: readonly Metric[],
): { section?: Section; told: Told[] } {
  const blocks: Block[] = []
  const told: Told[] = []
  for (const track of tracks) {
    const rows = all.filter((row) => row.part === part && row.track === track)
    const [reference] = rows
    if (!reference) continue
    const where = `${title}, ${track}`
    // Generated answers are the reference's alone.
    const metrics = knownMetrics(rows.slice(1), [...trackMetrics[track], ...far])
    const found = compared(where, rows, reference, metrics)
    blocks.push(meanTable(`${where}: mean over seeds ± half of its 95 % interval`, rows, metrics))
    blocks.push(...found.flatMap((one) => differenceBlocks(one, true)))
    told.push(...found)
  }
  return blocks.length === 0 ? { told } : { section: { title, blocks }, told }
}

function seedsSection(all: readonly Row[], far: readonly Metric[]): Section[] {
  const blocks = tracks.flatMap((track): Block[] => {
    const rows = all.filter((row) => row.part === 'seeds' && row.track === track)
    if (rows.length === 0) return []
    const metrics = knownMetrics(rows, [...trackMetrics[track], ...far])
    const shared = metrics.filter((metric) => metric.quantity !== 'answered')
    return [
      spreadTable(
        `S²FT, ${track}: standard deviation over runs, with its 95 % interval`,
        rows,
        shared,
      ),
    ]
  })
  const text =
    'The same training with other units and the same samples, with other samples and the same ' +
    'units, and with both.'
  return blocks.length === 0
    ? []
    : [{ title: 'Seeds', blocks: [{ kind: 'text', text }, ...blocks] }]
}

/** Fused adapters: against LoRA's with the same weights, and disjoint ones against overlapping. */
function fusionSection(all: readonly Row[]): { section?: Section; told: Told[] } {
  const rows = all.filter((row) => row.part === 'fusion')
  if (rows.length === 0) return { told: [] }
  const metrics = tracks.flatMap((track) =>
    trackMetrics[track]
      .filter(({ quantity }) => quantity !== 'answered')
      .map((metric) => ({ ...metric, name: `${track}, ${metric.name}` })),
  )
  const weightsOf = (row: Row) => /[\d.]+ \+ [\d.]+$/.exec(row.name)![0]
  const told = [...new Set(rows.map(weightsOf))].flatMap((weights) => {
    const same = rows.filter((row) => weightsOf(row) === weights)
    const groups = [
      ['lora', same],
      ['s2ft overlapping', same.filter((row) => row.name.startsWith('s2ft'))],
    ] as const
    return groups.flatMap(([family, group]) => {
      const reference = group.find((row) => row.name === `${family} ${weights}`)
      return reference ? compared(`Fusion, weights ${weights}`, group, reference, metrics) : []
    })
  })
  const text =
    'A math and a commonsense adapter added to the base with the weights named (math + ' +
    'commonsense). Overlapping S²FT adapters train the same units, disjoint ones none in common.'
  const blocks: Block[] = [
    { kind: 'text', text },
    meanTable('Fusion: mean over seeds ± half of its 95 % interval', rows, metrics, {
      training: false,
    }),
    ...told.flatMap((one) => differenceBlocks(one, one.where.includes('1 + 1'))),
  ]
  return { section: { title: 'Fusion', blocks }, told }
}

function ratesSection(sweeps: readonly Sweep[]): Section[] {
  const blocks = tracks.flatMap((track) => {
    const own = sweeps.filter((sweep) => sweep.track === track)
    return own.length === 0 ? [] : rateBlocks(track, own)
  })
  return blocks.length === 0 ? [] : [{ title: 'Learning rates', blocks }]
}

/** The whole report of what is finished so far. */
export async function studyPage(store: StudyStore, seeds: number): Promise<Page> {
  const study = store.study!
  const settings = studySettings(study.settings.preset as Preset)
  const { rows, sweeps } = await studyRows(store, settings, seeds)
  const far = settings.farOnVariations ? farMetrics : []
  const found = [
    ...tracks.map((track) => methodsSection(track, rows)),
    ...variationTitles.map(([part, title]) => variationSection(part, title, rows, far)),
    fusionSection(rows),
  ]
  return {
    title: 'Fine-tuning methods side by side',
    lead:
      'Means are over seeds, with Student’s 95 % interval over seeds. Differences are paired ' +
      'over the same seeds and items, and their error counts both as samples; * marks a 95 % ' +
      'interval that leaves out zero, ** one that does so when widened for all rows of its column ' +
      '(Bonferroni). Losses are in nats: of the reference answer’s tokens, or of the right option ' +
      'among the options.',
    sections: [
      ...conclusionsSection(found.flatMap(({ told }) => told)),
      studySection(store, study, settings),
      ...ratesSection(sweeps),
      ...found.slice(0, -1).flatMap(({ section }) => section ?? []),
      ...seedsSection(rows, far),
      ...(found.at(-1)!.section ? [found.at(-1)!.section!] : []),
    ],
  }
}
