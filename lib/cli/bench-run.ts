// What the benchmarks of whole steps have in common: a folder for their files, Ctrl-C, cases
// that fail, and the ratios behind the table.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { lossDisagreement, startsAtBase } from '../bench/agreement.js'
import type { CaseResult } from '../bench/case.js'
import type { BenchMethod } from '../bench/operations.js'
import { type RatioLine, ratioCells, ratiosTo } from '../bench/ratios.js'
import { type Case, caseLabel, runRounds } from '../bench/run.js'
import { type CaseIdentity, identityOf } from '../bench/summary.js'
import { S2FTError } from '../errors.js'
import { bytes } from '../report/format.js'
import { interruptSignal } from './load.js'
import type { Output } from './output.js'
import { table } from './table.js'

type StepCase = Case<{ method: BenchMethod; threads: number; dtype: string; batch: number }>

export interface BenchRun<C, R> {
  /** The benchmark's name in JSON lines. */
  bench: string
  cases: readonly C[]
  rounds: number
  /** What is told of a finished case beside its name. */
  progress: (item: C, result: R) => string
  /** The loss that a case must begin with, the base model's. */
  expectedLoss: (item: C, results: readonly R[][]) => number | undefined
}

/** Gives `work` a folder that is removed at its end, and a signal that Ctrl-C aborts. */
export async function withScratch<T>(
  out: Output,
  work: (scratch: string, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const interrupt = interruptSignal(() => out.note('stopping'))
  const scratch = await mkdtemp(join(tmpdir(), 's2ft-bench-'))
  try {
    return await work(scratch, interrupt.signal)
  } finally {
    interrupt.stop()
    await rm(scratch, { recursive: true, force: true })
  }
}

/**
 * Runs the cases and hands those that did not fail to `report`.
 * @throws S2FTError INTERNAL behind the report, naming the cases that failed
 */
export async function measureCases<C extends StepCase, R extends CaseResult>(
  out: Output,
  { bench, cases, rounds, progress, expectedLoss }: BenchRun<C, R>,
  signal: AbortSignal,
  report: (cases: C[], results: R[][]) => void,
): Promise<void> {
  const failures: string[] = []
  const results = await runRounds<C, R>(
    cases,
    rounds,
    (item, round, result) =>
      out.note(`round ${round + 1}/${rounds}  ${caseLabel(item)}: ${progress(item, result)}`),
    signal,
    (item, { code, message }) => {
      out.keep({ type: 'failure', bench, ...identityOf(item), code, message })
      out.note(`failed: ${message}`)
      failures.push(caseLabel(item))
    },
  )
  for (const [i, item] of cases.entries()) {
    const warn = (message: string) => {
      out.keep({ type: 'warning', bench, ...identityOf(item), message })
      out.note(`warning: ${message}`)
    }
    const [first] = results[i]!
    if (!first) continue
    const expected = startsAtBase(item.spec.method) && expectedLoss(item, results)
    const wrong = expected && lossDisagreement(caseLabel(item), first.lossFirst, expected)
    if (wrong) warn(wrong)
    if (results[i]!.some((r) => r.compilations)) {
      warn(`${caseLabel(item)}: code was compiled while the clock ran: raise --warmup`)
    }
  }
  const done = cases.flatMap((item, i) => (results[i]!.length > 0 ? [{ item, i }] : []))
  if (done.length > 0) {
    report(
      done.map(({ item }) => item),
      done.map(({ i }) => results[i]!),
    )
  }
  if (failures.length > 0) {
    const message = `${failures.length} of ${cases.length} cases failed: ${failures.join('; ')}`
    throw new S2FTError('INTERNAL', message)
  }
}

/** The fastest of each method and variant of which several cases were measured. */
function bestLines(lines: readonly RatioLine[]): string[] {
  const speeds = lines.filter((line) => line.quantity !== 'peakBytes')
  return speeds.flatMap((line) => {
    const fellow = (other: RatioLine) =>
      other.against === line.against && other.againstVariant === line.againstVariant
    if (!line.best || speeds.filter(fellow).length < 2) return []
    const [speed, range] = ratioCells(line)
    const against = `${line.against} ${line.againstVariant ?? ''}`.trim()
    return [
      `${line.method} ${line.dtype} is ${speed} (${range}) as fast as ${against} at its best ` +
        `(${line.againstDtype}, batch ${line.againstBatch})`,
    ]
  })
}

/**
 * Keeps the ratios for reports, and prints a table of the cases: their names, the `columns`, peak
 * memory, and how the first case compares.
 */
export function reportTable<S extends CaseIdentity & { peakBytes: number | null }>(
  out: Output,
  summaries: readonly S[],
  ratios: readonly RatioLine[],
  columns: readonly (readonly [string, (summary: S) => string])[],
): void {
  for (const line of ratios) out.keep(line)
  const first = summaries[0]!
  const names = ['method', 'type', 'variant']
  const comparison = [`${first.method} is faster by`, 'range', 'with memory of']
  const titles = [...names, ...columns.map(([title]) => title), 'peak memory', ...comparison]
  const rows = summaries.map((summary) => {
    const { speed, memory } = ratiosTo(ratios, summary)
    const { method, dtype, variant, peakBytes } = summary
    const cells = columns.map(([, cell]) => cell(summary))
    const peak = bytes(peakBytes)
    const [held] = ratioCells(memory)
    return [method, dtype, variant ?? '-', ...cells, peak, ...ratioCells(speed), held]
  })
  out.line(table(titles, rows, { right: titles.map((_, i) => i).slice(3) }))
  const best = bestLines(ratios)
  if (best.length > 0) out.line(`\n${best.join('\n')}`)
}
