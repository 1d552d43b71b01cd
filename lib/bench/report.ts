// Gathers benchmark results into the page that `s2ft bench report` writes.
import { bytes, duration } from '../report/format.js'
import type { Block, Page, Section } from '../report/html.js'
import type { OpRatio } from './lines.js'
import { linesOf, type Problem, type Results, type Run } from './read-results.js'
import { growthBlocks } from './report-growth.js'
import { memoryBlocks } from './report-memory.js'
import { opsBlocks } from './report-ops.js'
import { serveBlocks } from './report-serve.js'
import { realBlocks, trainBlocks } from './report-steps.js'
import { caseRatios, judgeTargets, targetTable } from './targets.js'

function distinct(values: readonly string[]): string {
  return [...new Set(values)].join('; ')
}

/** What ran where, and by which commands. */
function machineSection(runs: readonly Run[]): Section {
  const headers = runs.flatMap((run) => run.header ?? [])
  const peers = runs.flatMap((run) => run.peers ?? [])
  const unknown = runs.filter((run) => !run.header).map((run) => run.file)
  const blocks: Block[] = []
  if (headers.length > 0) {
    const facts: [string, string[]][] = [
      ['CPU', headers.map(({ machine }) => machine.cpu)],
      ['cores', headers.map(({ machine }) => String(machine.cores))],
      ['threads', headers.map(({ threads }) => String(threads))],
      ['memory', headers.map(({ machine }) => bytes(machine.memory))],
      ['system', headers.map(({ machine }) => machine.os)],
      ['instructions', headers.map(({ isa }) => isa)],
      ['bf16 weights by', headers.map(({ arithmetic }) => arithmetic)],
      ['products', headers.map(({ gemm }) => gemm)],
      ['s2ft', headers.map(({ version }) => version)],
      ['Node', headers.map(({ node }) => node)],
      ...(['python', 'torch', 'transformers', 'peft'] as const).map((name): [string, string[]] => [
        name,
        peers.map((line) => line[name]),
      ]),
    ]
    const rows = facts.filter(([, values]) => values.length > 0)
    blocks.push({
      kind: 'table',
      table: {
        caption: 'The machine and what ran on it',
        titles: ['what', 'found'],
        rows: rows.map(([name, values]) => [name, distinct(values)]),
      },
    })
  }
  if (unknown.length > 0) {
    blocks.push({
      kind: 'text',
      text: `Not known for ${distinct(unknown)}: a benchmark's --output file says it, --json does not.`,
    })
  }
  return { title: 'Machine', blocks }
}

function targetsSection(runs: readonly Run[]): Section[] {
  const targets = judgeTargets(runs)
  if (targets.length === 0) return []
  const caption = `${targets.filter((target) => target.met).length} of ${targets.length} met`
  return [
    { title: 'Targets', blocks: [{ kind: 'table', table: { caption, ...targetTable(targets) } }] },
  ]
}

/** What went wrong in a run, as its own lines say. */
function remarks(run: Run, ends: boolean): Block[] {
  const items = [
    ...linesOf(run, 'failure').map(({ code, message }) => `Failed: [${code}] ${message}`),
    ...linesOf(run, 'warning').map(({ message }) => `Warning: ${message}`),
    ...(ends && linesOf(run, 'end').length === 0 ? ['This command did not go to its end.'] : []),
  ]
  return items.length > 0 ? [{ kind: 'list', items }] : []
}

function runSection(run: Run, ends: boolean): Section {
  const ratios = caseRatios(run)
  const ofOps = linesOf(run, 'ratio').filter((line): line is OpRatio => 'op' in line)
  const parts: [string, Block[]][] = [
    [
      'Training steps',
      trainBlocks(
        linesOf(run, 'case'),
        ratios.filter((r) => r.bench === 'train'),
      ),
    ],
    [
      'Real data',
      realBlocks(
        linesOf(run, 'real'),
        ratios.filter((r) => r.bench === 'real'),
      ),
    ],
    ['Single operations', opsBlocks(linesOf(run, 'op'), linesOf(run, 'peak'), ofOps)],
    ['Memory', memoryBlocks(linesOf(run, 'memory'))],
    [
      'Growth',
      growthBlocks(
        linesOf(run, 'growth'),
        linesOf(run, 'growth-fit'),
        linesOf(run, 'growth-skipped'),
      ),
    ],
    ['Serving', serveBlocks(run)],
  ]
  const found = parts.filter(([, blocks]) => blocks.length > 0)
  const blocks: Block[] = []
  if (run.header) {
    const [end] = linesOf(run, 'end')
    const took = end ? `, took ${duration(end.seconds)}` : ''
    blocks.push({ kind: 'command', text: run.header.command })
    blocks.push({
      kind: 'text',
      text: `Begun ${run.header.date.slice(0, 16).replace('T', ' ')} UTC${took}.`,
    })
  }
  return {
    title: found.map(([title]) => title).join(', ') || 'No figures',
    blocks: [...blocks, ...remarks(run, ends), ...found.flatMap(([, list]) => list)],
  }
}

/** `results.jsonl:12: message`. */
export function problemText({ file, line, message }: Problem): string {
  return `${file}:${line}: ${message}`
}

/** The whole report. Lines that could not be read have a section of their own, at the end. */
export function benchmarkPage({ runs, problems }: Results): Page {
  const whole = new Set(runs.filter((run) => linesOf(run, 'end').length > 0).map((run) => run.file))
  const broken: Section[] =
    problems.length > 0
      ? [
          {
            title: 'Lines that could not be read',
            blocks: [{ kind: 'list', items: problems.map(problemText) }],
          },
        ]
      : []
  return {
    title: 's2ft benchmarks',
    lead:
      'Figures are medians with least and most of what was measured. Every section is one run of ' +
      'one command. Training cases took turns in fresh processes; ratios pair cases of one round.',
    sections: [
      ...targetsSection(runs),
      machineSection(runs),
      ...runs.map((run) => runSection(run, whole.has(run.file))),
      ...broken,
    ],
  }
}
