// Runs a study's cases one after another, keeping each result, until all are done or time is up.
import { S2FTError } from '../errors.js'
import { caseKey, type StudyCase } from './cases.js'
import type { CaseLine, FailureLine } from './lines.js'
import { type Answer, type Planned, type PlanOptions, walkPlan } from './plan.js'
import type { StudyStore } from './store.js'

export interface RunOptions extends PlanOptions {
  store: StudyStore
  run: (spec: StudyCase) => Promise<CaseLine>
  /** No case begins that would end later than this. */
  seconds?: number | undefined
  signal?: AbortSignal | undefined
  onCase?: (planned: Planned, result: CaseLine | FailureLine) => void
}

/** Cases of like cost, for estimates. */
function costClass(spec: StudyCase): string {
  if (spec.kind === 'train') return `${spec.track} ${spec.on}`
  return spec.kind === 'base' ? `${spec.track} base` : 'fusion'
}

/** How long cases take, learnt from those that are finished. */
class Costs {
  private readonly seconds = new Map<string, number[]>()

  add(spec: StudyCase, { seconds }: CaseLine): void {
    const known = this.seconds.get(costClass(spec)) ?? []
    this.seconds.set(costClass(spec), [...known, seconds])
  }

  /** Mean of its class, else of all; 0 where nothing is known. */
  expect(spec: StudyCase): number {
    const own = this.seconds.get(costClass(spec)) ?? [...this.seconds.values()].flat()
    return own.length === 0 ? 0 : own.reduce((sum, value) => sum + value, 0) / own.length
  }
}

export interface Outcome {
  /** Cases of this plan that are finished, and those that failed in this call. */
  done: number
  failed: FailureLine[]
  /** Cases that were not begun, as far as is known, and about how long they take. */
  left: number
  secondsLeft: number
}

/**
 * Runs what is missing. A case that fails is kept as such and tried again in the next call; what
 * follows runs all the same. Throws CANCELLED when the signal stops it, and IO.
 */
export async function runStudy(options: RunOptions): Promise<Outcome> {
  const { store, run, seconds = Number.POSITIVE_INFINITY, signal, onCase } = options
  const started = performance.now()
  const costs = new Costs()
  await walkPlan(options, ({ case: spec }) => {
    const line = store.cases.get(caseKey(spec))
    if (line) costs.add(spec, line)
    return line ?? 'pending'
  })
  const failed = new Map<string, FailureLine>()
  await walkPlan(options, async (planned): Promise<Answer | undefined> => {
    const { case: spec } = planned
    const key = caseKey(spec)
    const known = store.cases.get(key)
    if (known) return known
    if (failed.has(key)) return 'failed'
    const elapsed = (performance.now() - started) / 1000
    if (elapsed + costs.expect(spec) > seconds) return undefined
    const line = await run(spec).catch((error: unknown): FailureLine => {
      if (signal?.aborted || !(error instanceof S2FTError)) throw error
      return { type: 'failure', key, code: error.code, message: error.message }
    })
    store.add(line)
    onCase?.(planned, line)
    if (line.type === 'case') {
      costs.add(spec, line)
      return line
    }
    failed.set(key, line)
    return 'failed'
  })
  return { failed: [...failed.values()], ...(await remaining(options, failed, costs)) }
}

async function remaining(
  { store, ...options }: RunOptions,
  failed: ReadonlyMap<string, FailureLine>,
  costs: Costs,
): Promise<Pick<Outcome, 'done' | 'left' | 'secondsLeft'>> {
  const done = new Set<string>()
  const left = new Map<string, StudyCase>()
  await walkPlan(options, ({ case: spec }) => {
    const key = caseKey(spec)
    const line = store.cases.get(key)
    if (line) done.add(key)
    else if (!failed.has(key)) left.set(key, spec)
    return line ?? (failed.has(key) ? 'failed' : 'pending')
  })
  const secondsLeft = [...left.values()].reduce((sum, spec) => sum + costs.expect(spec), 0)
  return { done: done.size, left: left.size, secondsLeft }
}
