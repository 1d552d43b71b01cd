// The part of a study's report that says what was run, on what, and by which command.
import { bytes, duration, grouped } from '../report/format.js'
import type { Block, Section } from '../report/html.js'
import { failureTexts, type StudyLine } from './lines.js'
import type { StudySettings } from './settings.js'
import type { StudyStore } from './store.js'
import { type Track, tracks } from './tracks.js'
import { methodVariants } from './variants.js'

function trainingText({ training }: StudySettings, track: Track): string {
  const { batch, steps, epochs } = training[track]
  return steps === undefined
    ? `${epochs} epochs in batches of ${batch}`
    : `${steps} steps of ${batch} samples`
}

/** Settings, machine, rows and failures. */
export function studySection(
  store: StudyStore,
  study: StudyLine,
  settings: StudySettings,
): Section {
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
    ['CPU', distinct(runs.map(({ machine }) => `${machine.cores} x ${machine.cpu}`))],
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
