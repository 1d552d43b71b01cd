// A study's results as a page: what was run, tables, plots, and what their intervals show.
import { bytes, duration, grouped } from '../report/format.js'
import type { Block, Page, Section } from '../report/html.js'
import { failureTexts, type StudyLine } from './lines.js'
import type { Part } from './plan.js'
import {
  differencePlots,
  differenceTable,
  knownMetrics,
  meanTable,
  rateBlocks,
  spreadTable,
} from './report-tables.js'
import {
  type Comparison,
  compare,
  type Difference,
  type Row,
  type Shown,
  type Sweep,
  shownDifferences,
  studyRows,
} from './rows.js'
import { type Preset, type StudySettings, studySettings } from './settings.js'
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
import { methodVariants } from './variants.js'

/** A comparison with the words that introduce it. */
interface Told {
  where: string
  comparison: Comparison
}

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
): { section?: Section; told: Told[] } {
  const blocks: Block[] = []
  const told: Told[] = []
  for (const track of tracks) {
    const rows = all.filter((row) => row.part === part && row.track === track)
    const [reference] = rows
    if (!reference) continue
    const where = `${title}, ${track}`
    const metrics = knownMetrics(rows, [...trackMetrics[track], ...farMetrics])
    const found = compared(where, rows, reference, metrics)
    blocks.push(meanTable(`${where}: mean over seeds ± half of its 95 % interval`, rows, metrics))
    blocks.push(...found.flatMap((one) => differenceBlocks(one, true)))
    told.push(...found)
  }
  return blocks.length === 0 ? { told } : { section: { title, blocks }, told }
}

function seedsSection(all: readonly Row[]): Section[] {
  const blocks = tracks.flatMap((track): Block[] => {
    const rows = all.filter((row) => row.part === 'seeds' && row.track === track)
    if (rows.length === 0) return []
    const metrics = knownMetrics(rows, [...trackMetrics[track], ...farMetrics])
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

/** Fused adapters: every family against LoRA with the same weights. */
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
    const group = rows.filter((row) => weightsOf(row) === weights)
    const reference = group.find((row) => row.name === `lora ${weights}`)
    return reference ? compared(`Fusion, weights ${weights}`, group, reference, metrics) : []
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

function conclusionsSection(told: readonly Told[]): Section[] {
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
    `${grouped(count(({ firm }) => firm))} hold when a figure's intervals are widened so that all ` +
    'rows hold at once: these are marked ** and can be relied on singly. Of all other differences ' +
    'these runs say nothing.'
  const items = conclusions(told)
  const list: Block[] = items.length > 0 ? [{ kind: 'list', items }] : []
  return [{ title: 'What the intervals show', blocks: [{ kind: 'text', text: lead }, ...list] }]
}

function trainingText({ training }: StudySettings, track: Track): string {
  const { batch, steps, epochs } = training[track]
  return steps === undefined
    ? `${epochs} epochs in batches of ${batch}`
    : `${steps} steps of ${batch} samples`
}

function studySection(store: StudyStore, study: StudyLine, settings: StudySettings): Section {
  const { runs } = store
  const distinct = (values: readonly string[]) => [...new Set(values)].join('; ')
  const seconds = [...store.cases.values()].reduce((sum, line) => sum + line.seconds, 0)
  const facts: [string, string][] = [
    ['model', `${study.model.split('/').at(-1)}, ${grouped(study.parameters)} parameters`],
    ['weights', `${study.dtype} on ${study.device}`],
    ...tracks.map((track): [string, string] => [
      `training, ${track}`,
      `${trainingText(settings, track)}, drawn of ${grouped(study.rows[`${track}: train`]!)} rows`,
    ]),
    ['budget', `as many values as LoRA of rank ${settings.rank} on all linear layers`],
    ['CPU', distinct(runs.map(({ machine }) => `${machine.cpu}, ${machine.cores} cores`))],
    ['memory', distinct(runs.map(({ machine }) => bytes(machine.memory)))],
    [
      'software',
      distinct(runs.map(({ version, node, gemm }) => `s2ft ${version}, Node ${node}, ${gemm}`)),
    ],
    ['begun', runs[0]?.date.slice(0, 16).replace('T', ' ') ?? '-'],
    ['cases', `${store.cases.size} in ${duration(seconds)}`],
  ]
  const items = Object.entries(study.rows).filter(([name]) => !name.includes(': train'))
  const blocks: Block[] = [
    ...[...new Set(runs.map(({ command }) => command))].map(
      (text): Block => ({ kind: 'command', text }),
    ),
    { kind: 'table', table: { caption: 'The study', titles: ['what', 'found'], rows: facts } },
    {
      kind: 'table',
      table: {
        caption: 'Rows that decide the rate, and items scored',
        titles: ['set', 'rows'],
        rows: items.map(([name, count]) => [name, grouped(count)]),
        right: [1],
      },
    },
  ]
  blocks.push({
    kind: 'table',
    table: {
      caption: 'The methods',
      titles: ['method', 'trains'],
      rows: methodVariants(settings).map(({ name, about = '' }) => [name, about]),
    },
  })
  const failures = failureTexts([...store.failures.values()])
  if (failures.length > 0) {
    blocks.push({ kind: 'text', text: 'Cases that failed:' }, { kind: 'list', items: failures })
  }
  return { title: 'What was run', blocks }
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
  const found = [
    ...tracks.map((track) => methodsSection(track, rows)),
    ...variationTitles.map(([part, title]) => variationSection(part, title, rows)),
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
      ...seedsSection(rows),
      ...(found.at(-1)!.section ? [found.at(-1)!.section!] : []),
    ],
  }
}
