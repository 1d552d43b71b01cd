// Measures an axis: makes its models, leaves out what would not fit, runs the rest in rounds.
import { mkdir, open, rm, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { S2FTError } from '../errors.js'
import { availableMemory } from '../trainer/memory.js'
import type { CaseResult, CaseSpec } from './case.js'
import {
  fitSeries,
  type GrowthLine,
  type GrowthPoint,
  type GrowthSkipped,
  loadLine,
  placeOf,
  settingOf,
  stepLine,
} from './growth.js'
import type { Axis, Point, Series, Setting } from './growth-axes.js'
import type { LoadResult, LoadSpec } from './load-case.js'
import { weightBytes, writeRandomModel } from './random-model.js'
import { type Case, runCase, runRounds } from './run.js'
import type { ShapeConfig } from './shapes.js'
import { median } from './summary.js'

export interface GrowthOptions {
  dtype: 'bf16' | 'f32'
  device: CaseSpec['device']
  arithmetic: NonNullable<CaseSpec['arithmetic']>
  rounds: number
  warmup: number
  /** Timed steps a round: at most so many, and no further one after so many seconds. */
  steps: number
  seconds: number
}

/** Hears of what is under way. */
export type GrowthProgress = (text: string) => void

interface Job {
  axis: Axis
  series: Series
  point: Point
  setting: Setting
  model: string
}

/**
 * Every line of the axis: points in their order, points left out, exponents. Models lie in
 * `scratch` while the axis is measured.
 *
 * @throws CANCELLED, IO, INTERNAL when a case fails
 */
export async function runAxis(
  axis: Axis,
  options: GrowthOptions,
  scratch: string,
  progress: GrowthProgress,
  signal?: AbortSignal,
): Promise<GrowthLine[]> {
  const folder = join(scratch, axis.axis)
  await mkdir(folder)
  try {
    const models = new ModelStore(folder, options.dtype)
    const jobs: Job[] = []
    const skipped: GrowthSkipped[] = []
    for (const series of axis.series) {
      for (const point of series.points) {
        if (signal?.aborted) throw new S2FTError('CANCELLED', 'the benchmark was cancelled')
        const setting = settingOf(series, point)
        const lack = await models.lack(setting, axis.measures)
        if (lack) {
          skipped.push({ type: 'growth-skipped', ...placeOf(axis, series, point), ...lack })
        } else {
          jobs.push({ axis, series, point, setting, model: await models.make(setting) })
        }
      }
    }
    const measure = axis.measures === 'load' ? measureLoads : measureSteps
    const lines = await measure(jobs, options, progress, signal)
    const points = lines.filter((line): line is GrowthPoint => line.type === 'growth')
    const fits = axis.series.flatMap(({ name }) => fitSeries(axis, name, points))
    return [...lines, ...skipped, ...fits]
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** Random models of an axis, each shape once. */
class ModelStore {
  private readonly made = new Map<string, string>()

  constructor(
    private readonly folder: string,
    private readonly dtype: 'bf16' | 'f32',
  ) {}

  /** What a model cannot be made or loaded for, from the size of its weights alone. */
  async lack(
    setting: Setting,
    measures: Axis['measures'],
  ): Promise<Pick<GrowthSkipped, 'lacks' | 'neededBytes' | 'availableBytes'> | undefined> {
    const bytes = weightBytes(setting, this.dtype)
    // Loading is measured with the file in the page cache beside the weights.
    const neededBytes = measures === 'load' ? 2 * bytes : bytes
    const availableBytes = availableMemory()
    if (neededBytes > availableBytes) return { lacks: 'memory', neededBytes, availableBytes }
    if (this.made.has(shapeKey(setting))) return undefined
    const { bavail, bsize } = await statfs(this.folder)
    if (bytes <= bavail * bsize) return undefined
    return { lacks: 'disk', neededBytes: bytes, availableBytes: bavail * bsize }
  }

  async make(setting: Setting): Promise<string> {
    const key = shapeKey(setting)
    const known = this.made.get(key)
    if (known !== undefined) return known
    const directory = join(this.folder, `${this.made.size}`)
    await writeRandomModel(directory, shapeOf(setting), this.dtype)
    // No write-back of it may run beside what is measured.
    await using file = await open(join(directory, 'model.safetensors'))
    await file.sync()
    this.made.set(key, directory)
    return directory
  }
}

function shapeOf(setting: Setting): ShapeConfig {
  const { method, batch, sequence, channels, rank, threads, ...shape } = setting
  return shape
}

function shapeKey(setting: Setting): string {
  return JSON.stringify(Object.entries(shapeOf(setting)).sort())
}

function describe({ axis, series, point }: Job): string {
  return `${axis.axis}, ${series.name}, ${point.x} ${axis.unit}`
}

function caseOf({ setting, model }: Job, options: GrowthOptions): Case {
  const { rounds: _, ...rest } = options
  const { method, batch, sequence, channels, rank, threads } = setting
  const sizes = { vocabulary: setting.vocab_size, intermediate: setting.intermediate_size }
  const step = { method, batch, sequence, channels, rank, threads }
  return { name: method, spec: { model, ...rest, ...step, ...sizes, onlyIfFits: true } }
}

async function measureSteps(
  jobs: readonly Job[],
  options: GrowthOptions,
  progress: GrowthProgress,
  signal?: AbortSignal,
): Promise<GrowthLine[]> {
  const cases = jobs.map((job) => caseOf(job, options))
  const jobOf = new Map(cases.map((item, i) => [item, jobs[i]!]))
  const hear = (item: Case, round: number, { seconds }: CaseResult) => {
    const what = seconds.length > 0 ? `${median(seconds).toPrecision(3)} s` : 'does not fit'
    progress(`round ${round + 1}/${options.rounds}  ${describe(jobOf.get(item)!)}: ${what}`)
  }
  const results = await runRounds(cases, options.rounds, hear, signal)
  // Whatever disturbs a probe makes it read too low, never too high.
  const peakWith = (threads: number) =>
    Math.max(...results.flat().map((r) => (r.threads === threads && r.peakGflops) || 0))
  return jobs.map((job, i) => {
    const place = placeOf(job.axis, job.series, job.point)
    const own = results[i]!
    return stepLine(place, job.setting, cases[i]!, own, peakWith(own[0]!.threads) || undefined)
  })
}

async function measureLoads(
  jobs: readonly Job[],
  options: GrowthOptions,
  progress: GrowthProgress,
  signal?: AbortSignal,
): Promise<GrowthLine[]> {
  const { dtype, device, arithmetic } = options
  const cases = jobs.map(({ model, setting: { threads } }): Case<LoadSpec> => {
    return { name: 'load', script: 'load', spec: { model, dtype, device, arithmetic, threads } }
  })
  const jobOf = new Map(cases.map((item, i) => [item, jobs[i]!]))
  const hear = (item: Case<LoadSpec>, round: number, { seconds }: LoadResult) => {
    const what = describe(jobOf.get(item)!)
    progress(`round ${round + 1}/${options.rounds}  ${what}: ${seconds.toPrecision(3)} s`)
  }
  // Uncounted: memory that a virtual machine has not used yet comes several times as slowly.
  for (const item of cases) await runCase(item, signal)
  const results = await runRounds<Case<LoadSpec>, LoadResult>(cases, options.rounds, hear, signal)
  return jobs.map(({ axis, series, point, setting }, i) =>
    loadLine(placeOf(axis, series, point), setting, dtype, results[i]!),
  )
}
