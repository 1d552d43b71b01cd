// The search for a learning rate: along a ladder, by validation loss, outwards while the best is at
// the edge of what was tried.

/** Thirds and tens, so that a step is about a factor of three. */
const LADDER = [-7, -6, -5, -4, -3, -2, -1, 0].flatMap((power) => [
  Number(`1e${power}`),
  Number(`3e${power}`),
])

/** Rates next to `rate` and itself, ascending. Throws RangeError for a rate off the ladder. */
export function firstRates(rate: number): number[] {
  const at = LADDER.indexOf(rate)
  if (at < 0) throw new RangeError(`expected a rate of ${LADDER.join(', ')}, found ${rate}`)
  return LADDER.slice(Math.max(0, at - 1), at + 2)
}

/** What was tried: a rate and its loss; Infinity where training diverged. */
export type Tried = ReadonlyMap<number, number>

/** The rate with the least loss; the smaller one of equals. undefined when none is finite. */
export function bestRate(tried: Tried): number | undefined {
  let best: number | undefined
  for (const rate of [...tried.keys()].sort((a, b) => a - b)) {
    const loss = tried.get(rate)!
    if (Number.isFinite(loss) && (best === undefined || loss < tried.get(best)!)) best = rate
  }
  return best
}

/** The rate to try next because the best is at an edge; undefined when it is not. */
export function nextRate(tried: Tried): number | undefined {
  const best = bestRate(tried)
  const rates = [...tried.keys()].sort((a, b) => a - b)
  if (best === undefined) return LADDER[LADDER.indexOf(rates[0]!) - 1]
  const at = LADDER.indexOf(best)
  if (best === rates[0]) return LADDER[at - 1]
  if (best === rates.at(-1)) return LADDER[at + 1]
  return undefined
}

/** Whether the best rate is the least or the largest of those tried. */
export function atEdge(tried: Tried): boolean {
  return nextRate(tried) !== undefined
}
