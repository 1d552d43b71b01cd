// The order of a study's cases, and which rows of which tables they make. One generator serves the
// run, the count of what is left, and the report: each answers with what it knows of a case.
import { caseKey, type StudyCase, type TrainCase } from './cases.js'
import type { CaseLine } from './lines.js'
import { bestRate, firstRates, nextRate } from './rates.js'
import type { StudySettings } from './settings.js'
import { type Track, tracks } from './tracks.js'
import {
  allocationVariants,
  componentVariants,
  methodVariants,
  selectionVariants,
  type Variant,
} from './variants.js'

export const parts = [
  'methods',
  'selection',
  'allocation',
  'components',
  'seeds',
  'fusion',
] as const
export type Part = (typeof parts)[number]

/** A case, and the row of a table that it is a seed of. */
export interface Planned {
  /** `rates` cases choose a learning rate, `adapters` are what fusion needs. */
  part: Part | 'rates' | 'adapters'
  track: Track
  row: string
  case: StudyCase
}

/** What is known of a case: its line, that it failed, or nothing yet. */
export type Answer = CaseLine | 'failed' | 'pending'
type Plan<R> = Generator<Planned, R, Answer>

export interface PlanOptions {
  settings: StudySettings
  seeds: number
  only: readonly Part[]
  /** What is trained for; fusion needs both tracks. */
  tracks?: readonly Track[]
}

function isLine(answer: Answer): answer is CaseLine {
  return typeof answer === 'object'
}

class Planner {
  private readonly rates = new Map<string, number | undefined>()

  constructor(private readonly options: PlanOptions) {}

  private get settings(): StudySettings {
    return this.options.settings
  }

  private get tracks(): readonly Track[] {
    return this.options.tracks ?? tracks
  }

  private get variationTracks(): readonly Track[] {
    return this.settings.variationTracks.filter((track) => this.tracks.includes(track))
  }

  private seeds(): number[] {
    return Array.from({ length: this.options.seeds }, (_, i) => i)
  }

  /** The best rate on the validation rows, with seed 0; undefined where every run failed. */
  private *rate(track: Track, { name, rate }: Variant): Plan<number | undefined> {
    const key = `${track} ${name}`
    if (this.rates.has(key)) return this.rates.get(key)
    const tried = new Map<number, number>()
    let unknown = false
    const attempt = function* (learningRate: number): Plan<void> {
      const run: TrainCase = {
        ...{ kind: 'train', track, variant: name, learningRate },
        ...{ seed: 0, order: 0, on: 'validation' },
      }
      const answer = yield { part: 'rates', track, row: name, case: run }
      if (answer === 'pending') unknown = true
      if (isLine(answer)) tried.set(learningRate, validationLoss(answer))
    }
    for (const first of firstRates(rate!)) yield* attempt(first)
    for (let i = 0; i < this.settings.sweepExtensions && tried.size > 0 && !unknown; i++) {
      const next = nextRate(tried)
      if (next === undefined) break
      yield* attempt(next)
    }
    const best = unknown ? rate : bestRate(tried)
    this.rates.set(key, best)
    return best
  }

  /** Runs of one variant with all seeds, with the rate of `s2ft` unless it has its own. */
  private *runs(
    place: { part: Part; track: Track; row?: string },
    variant: Variant,
    on: TrainCase['on'],
  ): Plan<void> {
    const { part, track, row = variant.name } = place
    const reference = methodVariants(this.settings).find(({ name }) => name === 's2ft')!
    const learningRate = yield* this.rate(track, variant.rate ? variant : reference)
    if (learningRate === undefined) return
    for (const seed of this.seeds()) {
      yield {
        ...{ part, track, row },
        case: {
          ...{ kind: 'train', track, variant: variant.name, learningRate },
          ...{ seed, order: seed, on },
        },
      }
    }
  }

  *methods(): Plan<void> {
    for (const track of this.tracks) {
      yield { part: 'methods', track, row: 'base', case: { kind: 'base', track } }
      for (const variant of methodVariants(this.settings)) {
        yield* this.runs({ part: 'methods', track }, variant, 'answers')
      }
    }
  }

  /** A table of S²FT's variations, with S²FT as it comes as its first row. */
  private *variations(part: Part, row: string, variants: readonly Variant[]): Plan<void> {
    const plain = methodVariants(this.settings).find(({ name }) => name === 's2ft')!
    for (const track of this.variationTracks) {
      yield* this.runs({ part, track, row }, plain, 'answers')
      for (const variant of variants) {
        const short = variant.name.replace('s2ft ', '')
        yield* this.runs({ part, track, row: short }, variant, 'test')
      }
    }
  }

  selection(): Plan<void> {
    return this.variations('selection', 'random', selectionVariants())
  }

  allocation(): Plan<void> {
    return this.variations('allocation', 'uniform', allocationVariants())
  }

  components(): Plan<void> {
    return this.variations('components', 'o, down', componentVariants())
  }

  /** The same run with other units, and with other samples. */
  *seedRuns(): Plan<void> {
    const plain = methodVariants(this.settings).find(({ name }) => name === 's2ft')!
    for (const track of this.variationTracks) {
      const learningRate = yield* this.rate(track, plain)
      if (learningRate === undefined) continue
      const sources = ['units', 'samples', 'units and samples'] as const
      for (const row of sources) {
        for (let i = 0; i < this.settings.seedRuns; i++) {
          const seed = row === 'samples' ? 0 : i
          const order = row === 'units' ? 0 : i
          // Runs of the methods' table are its first ones; later ones need no generated answers.
          const on = seed === order && i < this.options.seeds ? 'answers' : 'test'
          yield {
            ...{ part: 'seeds', track, row },
            case: { kind: 'train', track, variant: plain.name, learningRate, seed, order, on },
          }
        }
      }
    }
  }

  /** A math and a commonsense adapter in one model. */
  *fusion(): Plan<void> {
    if (this.tracks.length < tracks.length) return
    const named = (wanted: string) =>
      methodVariants(this.settings).find(({ name }) => name === wanted)!
    for (const family of ['s2ft disjoint', 's2ft overlapping', 'lora']) {
      const variant = named(family === 'lora' ? 'lora' : 's2ft')
      const rate = {} as Record<Track, number | undefined>
      for (const track of tracks) rate[track] = yield* this.rate(track, variant)
      if (rate.math === undefined || rate.commonsense === undefined) continue
      for (const seed of this.seeds()) {
        const run = (track: Track): TrainCase => ({
          ...{ kind: 'train', track, variant: variant.name, learningRate: rate[track]! },
          ...{ seed, order: seed, on: 'answers' },
        })
        const math = run('math')
        const other: TrainCase =
          family === 's2ft disjoint'
            ? {
                ...run('commonsense'),
                ...{ variant: 's2ft disjoint', on: 'test', avoid: caseKey(math) },
              }
            : run('commonsense')
        const answers: Answer[] = []
        for (const part of [math, other]) {
          answers.push(yield { part: 'adapters', track: part.track, row: family, case: part })
        }
        if (answers.includes('failed')) continue
        for (const [first, second] of weights(family, this.settings)) {
          yield {
            ...{ part: 'fusion', track: 'math', row: `${family} ${first} + ${second}` },
            case: {
              ...{ kind: 'fusion', family, seed },
              parts: [
                { ...partOf(math), weight: first },
                { ...partOf(other), weight: second },
              ],
            },
          }
        }
      }
    }
  }
}

function partOf(run: TrainCase) {
  return { track: run.track, learningRate: run.learningRate, adapter: caseKey(run) }
}

/** Of the math and the commonsense adapter. Those alone are the same, disjoint or not, for math. */
export function weights(
  family: string,
  { fusionWeights }: Pick<StudySettings, 'fusionWeights'>,
): readonly (readonly [number, number])[] {
  if (family === 's2ft disjoint') return [...fusionWeights, [0, 1]]
  return [...fusionWeights, [1, 0], [0, 1]]
}

/** Mean over the validation rows; Infinity where training diverged. */
export function validationLoss({ scores, diverged }: CaseLine): number {
  const values = scores.validation?.loss
  if (diverged || !values) return Number.POSITIVE_INFINITY
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

/** Every case in the order in which it is needed; some come more than once. */
export function* studyPlan(options: PlanOptions): Plan<void> {
  const planner = new Planner(options)
  for (const part of parts) {
    if (!options.only.includes(part)) continue
    if (part === 'seeds') yield* planner.seedRuns()
    else yield* planner[part]()
  }
}

/** Walks through the plan, answering each case; stops when `answer` gives undefined. */
export async function walkPlan(
  options: PlanOptions,
  answer: (planned: Planned) => Promise<Answer | undefined> | Answer | undefined,
): Promise<void> {
  const plan = studyPlan(options)
  let step = plan.next()
  while (!step.done) {
    const known = await answer(step.value)
    if (known === undefined) return
    step = plan.next(known)
  }
}
