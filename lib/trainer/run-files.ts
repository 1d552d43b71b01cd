// What a run keeps on disk: its checkpoints, its metrics and its result.
import { join } from 'node:path'
import { S2FTError } from '../errors.js'
import { changesBase } from '../method/types.js'
import {
  checkpointPath,
  listCheckpoints,
  OPTIMIZER_FILE,
  removeCheckpoint,
  removeLeftovers,
  writeCheckpoint,
} from './checkpoint.js'
import { makeAdapter } from './make-adapter.js'
import { MetricsLog } from './metrics.js'
import type { Session } from './session.js'
import { readState, type TrainerState, writeState } from './state.js'
import type { FitOptions, TrainEvent } from './types.js'

/** Where to go on from; undefined for a fresh start. */
export interface ResumePoint {
  path: string
  state: TrainerState
}

/** Of several ranks the first one writes; the others only read. */
export class RunFiles {
  private metrics: MetricsLog | undefined
  private saved = -1
  private readonly writes: boolean

  constructor(
    private readonly session: Session,
    private readonly outputDir: string | undefined,
  ) {
    this.writes = (session.settings.job?.rank ?? 0) === 0
  }

  /**
   * Cleans up after killed runs and finds the checkpoint to resume. Throws INVALID_ARGUMENT when
   * a fresh run would mix with an earlier one, IO and CORRUPT_FILE for an unusable checkpoint.
   */
  async resumePoint(resume: FitOptions['resume']): Promise<ResumePoint | undefined> {
    const { outputDir } = this
    if (outputDir !== undefined && this.writes) await removeLeftovers(outputDir)
    if (typeof resume === 'string') return { path: resume, state: await readState(resume) }
    if (outputDir === undefined) {
      if (!resume) return undefined
      throw new S2FTError('INVALID_ARGUMENT', 'resume: expected an outputDir or a path, found none')
    }
    if (!resume && !this.writes) return undefined
    const checkpoints = await listCheckpoints(outputDir)
    if (resume) {
      const newest = checkpoints.at(-1)
      return newest && { path: newest.path, state: await readState(newest.path) }
    }
    if (checkpoints.length > 0 && !this.session.settings.overwriteOutputDir) {
      throw new S2FTError(
        'INVALID_ARGUMENT',
        `outputDir: expected no checkpoints of an earlier run in ${outputDir}, found ` +
          `checkpoint-${checkpoints.at(-1)!.step}: resume it, choose another directory, or set ` +
          'overwriteOutputDir to remove them',
      )
    }
    for (const { path } of checkpoints) await removeCheckpoint(path)
    return undefined
  }

  /** Opens metrics.jsonl, cut to the lines up to `step`; -1 starts a new one. */
  async openMetrics(step: number): Promise<void> {
    if (this.outputDir !== undefined && this.writes)
      this.metrics = await MetricsLog.open(this.outputDir, step)
  }

  async log(event: TrainEvent): Promise<void> {
    await this.metrics?.write(event)
  }

  /** Restores weights and optimizer. Throws CORRUPT_FILE when the parts do not belong together. */
  async restore({ path, state }: ResumePoint): Promise<void> {
    const file = join(path, OPTIMIZER_FILE)
    const metadata = await this.session.run((trainer) => trainer.loadState(file))
    // What data chose is part of the state.
    this.session.choicePending = false
    if (metadata.step !== String(state.step)) {
      throw new S2FTError(
        'CORRUPT_FILE',
        `${file}: expected the state of step ${state.step}, found step ${metadata.step}`,
      )
    }
  }

  /**
   * Writes a checkpoint, or names the one of this very step, or of the rank that writes, unless
   * this one `must`. undefined without an outputDir.
   */
  async checkpoint(state: TrainerState, must = false): Promise<string | undefined> {
    const { outputDir, session } = this
    if (outputDir === undefined) return undefined
    if (this.saved === state.step || !(this.writes || must)) {
      return checkpointPath(outputDir, state.step)
    }
    await this.metrics?.flush()
    const { saveTotalLimit } = session.settings
    const path = await writeCheckpoint(outputDir, state.step, saveTotalLimit, async (directory) => {
      await this.saveTuned(directory)
      const file = join(directory, OPTIMIZER_FILE)
      await session.run((trainer) => trainer.saveState(file, { step: String(state.step) }))
      await writeState(directory, state)
    })
    this.saved = state.step
    return path
  }

  /** The final adapter or model. */
  async result(): Promise<string | undefined> {
    if (this.outputDir !== undefined && this.writes) await this.saveTuned(this.outputDir)
    return this.outputDir
  }

  async close(): Promise<void> {
    await this.metrics?.close()
    this.metrics = undefined
  }

  private async saveTuned(directory: string): Promise<void> {
    const { model, settings } = this.session
    if (!changesBase(settings.method)) {
      await (await makeAdapter(this.session)).save(directory)
      return
    }
    await this.session.run(() => model.save(directory, { overwrite: true }))
  }
}
