// Continuous batching: decides before every pass which sequences run, deals out pages, and gives
// what was sampled to whom it belongs. Jobs join and leave between passes.
import { S2FTError } from '../errors.js'
import type { NativeDecodedRow, NativeDecodeRow, NativeDecoder } from '../native/decoder-binding.js'
import type { EngineStats } from './engine-types.js'
import type { AdapterState, Job, JobAdapter } from './job.js'
import { PagePool } from './pages.js'

/** Where the jobs' adapters come from. */
export interface SchedulerAdapters {
  /** May begin to load it; throws why it cannot be loaded. */
  ready(adapter: JobAdapter, mayLoad: boolean): AdapterState
  /** A job begins to run with it, or does not run with it any more. */
  opened(adapter: JobAdapter): void
  closed(adapter: JobAdapter): void
}

export interface SchedulerOptions {
  pages: number
  pageTokens: number
  /** Sequences that run at once. */
  maxSequences: number
  /** Tokens of a pass. */
  maxBatchTokens: number
  /** Finds equal beginnings of prompts in the cache. */
  prefixCache: boolean
  adapters?: SchedulerAdapters
}

type Totals = Omit<EngineStats['totals'], 'requests'>

interface Planned {
  job: Job
  row: NativeDecodeRow
}

export class Scheduler {
  readonly pool: PagePool
  readonly waiting: Job[] = []
  readonly running: Job[] = []
  readonly totals: Totals = {
    ...{ promptTokens: 0, cachedTokens: 0, generatedTokens: 0, aborted: 0, preempted: 0 },
    passes: 0,
  }
  private nextId = 0

  constructor(
    private readonly decoder: NativeDecoder,
    private readonly options: SchedulerOptions,
  ) {
    this.pool = new PagePool(options.pages, options.pageTokens)
  }

  /** Jobs that are not finished. */
  get busy(): boolean {
    return this.waiting.length + this.running.length > 0
  }

  submit(job: Job): void {
    this.waiting.push(job)
  }

  /**
   * One pass. Answers false where nothing can run now: jobs wait for their adapters. A pass that
   * throws ends the jobs that were in it.
   */
  async step(): Promise<boolean> {
    await this.dropAborted()
    await this.admit()
    const planned = await this.plan()
    if (planned.length === 0) return false
    this.totals.passes++
    let rows: NativeDecodedRow[]
    try {
      rows = await this.decoder.pass(planned.map(({ row }) => row))
    } catch (error) {
      for (const { job } of planned) await this.finish(job, error)
      return true
    }
    for (const [i, { job, row }] of planned.entries()) await this.take(job, row, rows[i]!)
    return true
  }

  /** Ends every job with `error`. */
  async stop(error: unknown): Promise<void> {
    for (const job of [...this.running, ...this.waiting]) await this.finish(job, error)
  }

  private async dropAborted(): Promise<void> {
    for (const job of [...this.running, ...this.waiting].filter(({ aborted }) => aborted)) {
      this.totals.aborted++
      job.options.sequence.abort()
      await this.finish(job)
    }
  }

  /** Pages that a job's tokens and the next one take, beside those that it has. */
  private missing(job: Job): number {
    return Math.max(0, this.pool.pagesFor(job.tokens.length + 1) - job.pages.length)
  }

  /**
   * Opens waiting jobs, in their order, while there is room for their prompts. A job that waits for
   * its adapter lets others pass; where its adapter waits for room, none but those whose adapter is
   * there already.
   */
  private async admit(): Promise<void> {
    let slots = this.options.maxSequences - this.running.length
    let mayLoad = true
    // What prompts that began have yet to take is theirs.
    const promised = () => this.running.reduce((sum, job) => sum + this.missing(job), 0)
    for (let i = 0; i < this.waiting.length && slots > 0; ) {
      const job = this.waiting[i]!
      const state = await this.stateOf(job, mayLoad)
      if (state === undefined) continue
      if (state !== 'ready') {
        if (state === 'loading') slots--
        else mayLoad = false
        i++
        continue
      }
      const full = this.missing(job) > this.pool.available - promised()
      if (full && this.running.length > 0) return
      this.waiting.splice(i, 1)
      slots--
      await this.open(job)
    }
  }

  /** Undefined: its adapter cannot be loaded, which ended the job. */
  private async stateOf(job: Job, mayLoad: boolean): Promise<AdapterState | undefined> {
    const { adapter } = job.options
    if (adapter === undefined) return 'ready'
    try {
      return this.options.adapters?.ready(adapter, mayLoad) ?? 'ready'
    } catch (error) {
      await this.finish(job, error)
      return undefined
    }
  }

  private async open(job: Job): Promise<void> {
    const { sequence, adapter, promptLogprobs } = job.options
    this.pool.begin(job, this.options.prefixCache && !promptLogprobs)
    if (job.cachedTokens === undefined) {
      job.cachedTokens = job.past
      this.totals.cachedTokens += job.past
      this.totals.promptTokens += sequence.prompt.length
    }
    job.id = this.nextId++
    this.running.push(job)
    if (adapter) this.options.adapters?.opened(adapter)
    try {
      await this.decoder.open(job.id, {
        sampling: sequence.sampling(),
        adapter: adapter?.id ?? -1,
        cached: Int32Array.from(job.tokens.slice(0, job.past)),
        pages: Int32Array.from(job.pages),
        prompt: sequence.prompt.length,
      })
    } catch (error) {
      await this.finish(job, error)
    }
  }

  /** Sequences that decode come first; prompts take what is left of a pass. */
  private async plan(): Promise<Planned[]> {
    const order = [...this.running].sort((a, b) => Number(a.pending > 1) - Number(b.pending > 1))
    const planned: Planned[] = []
    let left = this.options.maxBatchTokens
    for (const job of order) {
      if (left === 0) break
      if (job.id === undefined) continue
      const count = Math.min(job.pending, left)
      const pages = await this.pagesOf(job, count, planned)
      if (!pages) continue
      planned.push({ job, row: job.row(count, pages) })
      left -= count
    }
    return planned
  }

  /** Pages for so many more tokens, if need be of jobs that began later; undefined: not now. */
  private async pagesOf(
    job: Job,
    count: number,
    planned: readonly Planned[],
  ): Promise<number[] | undefined> {
    const missing = Math.max(0, this.pool.pagesFor(job.past + count) - job.pages.length)
    for (;;) {
      const pages = this.pool.take(missing)
      if (pages) {
        job.pages.push(...pages)
        return pages
      }
      const victim = this.running.findLast(
        (other) => other !== job && !planned.some((entry) => entry.job === other),
      )
      const before =
        victim !== undefined && this.running.indexOf(victim) > this.running.indexOf(job)
      // The job that began last gives way itself.
      await this.preempt(before ? victim : job)
      if (!before) return undefined
    }
  }

  /** Gives a job's pages away; it is computed again when there is room, with the same result. */
  private async preempt(job: Job): Promise<void> {
    this.totals.preempted++
    await this.close(job)
    job.past = 0
    this.waiting.unshift(job)
  }

  private async take(job: Job, row: NativeDecodeRow, result: NativeDecodedRow): Promise<void> {
    job.advance(row, result)
    if (this.options.prefixCache) this.pool.publish(job)
    if (!row.sample) return
    if (!result.finite) {
      const where = `after ${job.tokens.length} tokens`
      const message = `expected logits that are finite numbers, found others ${where}`
      await this.finish(job, new S2FTError('NOT_FINITE', message))
      return
    }
    this.totals.generatedTokens++
    job.accept(result)
    if (job.options.sequence.finished) await this.finish(job)
  }

  private async close(job: Job): Promise<void> {
    const at = this.running.indexOf(job)
    if (at < 0) return
    this.running.splice(at, 1)
    this.pool.release(job.pages)
    job.pages = []
    const id = job.id!
    job.id = undefined
    // Queued before any pass that could write to these pages.
    await this.decoder.close(id)
    const { adapter } = job.options
    if (adapter) this.options.adapters?.closed(adapter)
  }

  private async finish(job: Job, error?: unknown): Promise<void> {
    await this.close(job)
    const at = this.waiting.indexOf(job)
    if (at >= 0) this.waiting.splice(at, 1)
    job.options.onEnd(error)
  }
}
