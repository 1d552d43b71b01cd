// What a run of `s2ft bench serve` says about its targets: of each kind the figure that is hardest
// to be proud of.
import { type Goal, judge, type Target } from './goals.js'
import { linesOf, type Run } from './read-results.js'
import type { Ratio } from './summary.js'

interface Figure {
  /** What is compared with its like only. */
  kind: string
  where: string
  ratio: Ratio
}

/** One target a kind: its smallest ratio, or with 'most' its largest. */
function hardest(goal: Goal, bound: Target['bound'], figures: readonly Figure[]): Target[] {
  const sign = bound === 'least' ? 1 : -1
  return [...new Set(figures.map(({ kind }) => kind))].flatMap((kind) => {
    const own = figures.filter((figure) => figure.kind === kind)
    const { where, ratio } = own.sort((a, b) => sign * (a.ratio.median - b.ratio.median))[0]!
    return [judge(goal, `${kind}, ${where}`, ratio.median, ratio.range)]
  })
}

/** Figures of lines with a ratio; LoRA and the base have none. */
function figures<L extends { method: string; dtype: string }>(
  lines: readonly L[],
  where: (line: L) => string,
  of: (line: L) => Ratio | null,
): Figure[] {
  return lines.flatMap((line) => {
    const ratio = of(line)
    return ratio ? [{ kind: `${line.method} ${line.dtype}`, where: where(line), ratio }] : []
  })
}

function loadTargets(run: Run): Target[] {
  return linesOf(run, 'serve-load').flatMap((line) => {
    const { residentBefore: before, residentAfter: after, pagesBefore, pagesAfter } = line
    const where = `${line.clients} clients, ${line.adapters} adapters, ${line.dtype}`
    return [
      judge('loadErrors', where, line.errors),
      judge('loadPages', where, pagesAfter - pagesBefore),
      ...(before === null || after === null ? [] : [judge('loadMemory', where, after / before)]),
    ]
  })
}

export function serveTargets(run: Run): Target[] {
  const switches = linesOf(run, 'serve-switch')
  const wide = switches.filter(({ width }) => width >= 4096)
  const width = (line: { width: number }) => `width ${line.width}`
  const ratio = (line: { loraRatio: Ratio | null }) => line.loraRatio
  const layers = linesOf(run, 'serve-layer')
  const count = (line: { adapters: number }) => `${line.adapters} adapters`
  const throughput = linesOf(run, 'serve-throughput')
  const flight = (line: { inFlight: number }) => `${line.inFlight} in flight`
  const share = (line: { ofBase: Ratio | null }) => line.ofBase
  const fused = throughput.filter(({ method }) => method === 'fused')
  const mixed = throughput.filter(({ method, inFlight }) => method === 's2ft' && inFlight === 64)
  return [
    ...hardest('switchWide', 'least', figures(wide, width, ratio)),
    ...hardest('switchAny', 'least', figures(switches, width, ratio)),
    ...hardest(
      'layerTime',
      'most',
      figures(layers, count, (line) => line.time),
    ),
    ...hardest(
      'layerMemory',
      'most',
      figures(layers, count, (line) => line.memory),
    ),
    ...hardest('fusedThroughput', 'least', figures(fused, flight, share)),
    ...hardest('mixedThroughput', 'least', figures(mixed, flight, share)),
    ...loadTargets(run),
  ]
}
