// What a set of results says about what the engine is held to.
import { between, grouped } from '../report/format.js'
import { type Goal, judge, type Target } from './goals.js'
import type { CaseRatio, Line } from './lines.js'
import { linesOf, type Run } from './read-results.js'
import { caseName, groupCases, modelName } from './report-cases.js'
import { serveTargets } from './serve-targets.js'

export type { Target } from './goals.js'

const ofS2ft = (line: { method: string; variant: string | null }) =>
  line.method === 's2ft' && line.variant === null

/** The ratio that is hardest to be proud of: the smallest speed, the largest memory. */
function hardest(lines: readonly CaseRatio[]): CaseRatio | undefined {
  const sign = lines[0]?.quantity === 'peakBytes' ? -1 : 1
  return [...lines].sort((a, b) => sign * (a.ratio - b.ratio))[0]
}

function judgeRatio(goal: Goal, place: string, lines: readonly CaseRatio[]): Target[] {
  const line = hardest(lines)
  if (!line) return []
  const other = caseName({ method: line.against, variant: line.againstVariant })
  const size = line.bench === 'real' ? `, batch ${line.againstBatch}` : ''
  const where = `${place}: ${line.dtype} against ${other} ${line.againstDtype}${size}`
  return [judge(goal, where, line.ratio, line.ratioRange)]
}

function trainTargets(title: string, cases: readonly Line<'case'>[], all: readonly CaseRatio[]) {
  const own = cases.find((line) => ofS2ft(line) && line.shareOfPeak !== null)
  const peak = own ? [judge('peak', `${title}: ${own.dtype}`, own.shareOfPeak!)] : []
  const ratios = all.filter((line) => ofS2ft(line) && line.batch === cases[0]!.batch)
  const speeds = ratios.filter((line) => line.quantity === 'tokensPerSecond')
  const peaks = ratios.filter((line) => line.quantity === 'peakBytes')
  const ours = (line: CaseRatio) => line.against === 'lora3' && line.againstVariant === null
  const peft = (variant: string) => (line: CaseRatio) =>
    line.against.startsWith('peft-lora') && line.againstVariant === variant
  return [
    ...peak,
    ...judgeRatio(
      'peft',
      title,
      speeds.filter((line) => line.against === 'peft-lora7' && line.againstVariant === 'eager'),
    ),
    ...judgeRatio('tuned', title, speeds.filter(peft('tuned'))),
    ...judgeRatio(
      'torch',
      title,
      speeds.filter((line) => line.against === 'torch-s2ft' && line.againstVariant === 'tuned'),
    ),
    ...judgeRatio(
      'memory',
      title,
      peaks.filter((line) => peft('eager')(line) && line.againstDtype === line.dtype),
    ),
    ...judgeRatio('loraSpeed', title, speeds.filter(ours)),
    ...judgeRatio('loraMemory', title, peaks.filter(ours)),
  ]
}

function realTargets(run: Run, ratios: readonly CaseRatio[]): Target[] {
  const [first] = linesOf(run, 'real')
  if (!first) return []
  const speeds = ratios.filter(
    (line) =>
      ofS2ft(line) &&
      line.quantity === 'samplesPerSecond' &&
      line.against === 'peft-lora7' &&
      line.againstVariant === 'eager',
  )
  const title = modelName(first.model)
  return [
    ...judgeRatio(
      'real',
      title,
      speeds.filter((line) => line.againstBatch === 8),
    ),
    ...judgeRatio('realBest', title, speeds),
  ]
}

function planTargets(run: Run): Target[] {
  return groupCases(linesOf(run, 'memory')).flatMap(({ title, lines }) => {
    const known = lines.filter((line) => line.planDifference !== null)
    const far = (line: Line<'memory'>) => Math.abs(line.planDifference!)
    const worst = known.sort((a, b) => far(b) - far(a))[0]
    if (!worst) return []
    const name = `${caseName(worst)} ${worst.dtype}, recompute ${worst.recompute}`
    return [judge('plan', `${title}: ${name}`, far(worst))]
  })
}

/** Ratios of whole steps, without those of single operations. */
export function caseRatios(run: Run): CaseRatio[] {
  return linesOf(run, 'ratio').filter((line): line is CaseRatio => 'quantity' in line)
}

/** Every target that the results have figures for. */
export function judgeTargets(runs: readonly Run[]): Target[] {
  return runs.flatMap((run) => {
    const ratios = caseRatios(run)
    const steps = ratios.filter((line) => line.bench === 'train')
    const train = groupCases(linesOf(run, 'case')).flatMap((group) =>
      trainTargets(group.title, group.lines, steps),
    )
    const real = ratios.filter((line) => line.bench === 'real')
    return [...train, ...realTargets(run, real), ...planTargets(run), ...serveTargets(run)]
  })
}

/** The targets as titles and rows, for a page or a terminal. */
export function targetTable(targets: readonly Target[]): {
  titles: string[]
  rows: string[][]
  right: number[]
} {
  return {
    titles: ['target', 'measured', 'wanted', 'met', 'range', 'where'],
    rows: targets.map(({ what, where, measured, range, target, bound, unit, met }) => {
      const text = (value: number) => {
        if (unit === 'count') return grouped(value)
        return unit === 'share' ? `${(100 * value).toFixed(1)}%` : `${value.toFixed(2)}x`
      }
      return [
        what,
        text(measured),
        `at ${bound} ${text(target)}`,
        met ? 'yes' : 'no',
        between(range, text),
        where,
      ]
    }),
    right: [1, 2, 4],
  }
}
