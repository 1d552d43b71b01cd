// Prints which targets a benchmark's lines meet.
import type { Run } from '../bench/read-results.js'
import type { Output } from './output.js'
import { table } from './table.js'

/** The targets of `runs` as events and as a table; nothing where there is no figure for one. */
export async function printRunTargets(out: Output, runs: readonly Run[]): Promise<void> {
  const { judgeTargets, targetTable } = await import('../bench/targets.js')
  const targets = judgeTargets(runs)
  for (const target of targets) out.event({ type: 'target', ...target })
  if (targets.length === 0) return
  const { titles, rows, right } = targetTable(targets)
  out.line(table(titles, rows, { right }))
}

/** The same of lines as they were just measured. */
export async function printTargets(out: Output, lines: readonly object[]): Promise<void> {
  const { parseResults } = await import('../bench/read-results.js')
  const text = lines.map((line) => JSON.stringify(line)).join('\n')
  await printRunTargets(out, parseResults(text, 'results').runs)
}
