// The job that this process is a rank of, when a launcher started several.
import { dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import { S2FTError } from '../errors.js'
import { validate } from '../model/validate.js'
import type { NativeJob } from '../native/binding.js'
import { addonPath, native } from '../native/load.js'
import { currentJob, setCurrentJob } from './current.js'
import { visibleDevice } from './devices.js'
import { detectLaunch, requireLaunch } from './launch.js'

export interface JoinOptions {
  /** auto (default): where mpirun or srun started several ranks; mpi: always; off: never. */
  distributed?: 'auto' | 'off' | 'mpi'
  /** Seconds that a rank waits for others before it counts them as lost; default 1800. */
  timeout?: number
}

const schema = z.strictObject({
  distributed: z.enum(['auto', 'off', 'mpi']).default('auto'),
  timeout: z.number().positive().default(1800),
})

/** Long enough for the others to print what they know before the launcher ends them. */
const LAST_WORDS_MS = 300

/**
 * One of `size` ranks that train together. A process has at most one. Its functions are collective
 * unless they say otherwise: all ranks call the same in the same order.
 */
export class Job {
  private ended = false

  /** @internal */
  constructor(readonly native: NativeJob) {}

  get rank(): number {
    return this.native.rank
  }

  get size(): number {
    return this.native.size
  }

  /** CPU threads for this rank: its share of the host. */
  get threads(): number {
    return this.native.cpus
  }

  /** Place among the ranks of this host. */
  get hostRank(): number {
    return this.native.hostRank
  }

  get hostSize(): number {
    return this.native.hostSize
  }

  /** The MPI that carries it. */
  get library(): string {
    return this.native.library
  }

  /** Every rank's text, in the order of ranks. Throws RANK_FAILED. */
  gather(text: string): Promise<string[]> {
    return this.native.gather(text)
  }

  /** Sums over ranks, the same bits on each. Throws RANK_FAILED. */
  sum(values: number[]): Promise<number[]> {
    return this.native.sum(values)
  }

  /** Tells the others, whose collective calls throw RANK_FAILED with this message. Not collective. */
  fail(message: string): Promise<void> {
    return this.native.fail(message)
  }

  /** The orderly end of a job: waits for all ranks. Training is over then. */
  async finish(): Promise<void> {
    await this.native.finish()
    this.ended = true
  }

  /** @internal Ends what still runs of a job that failed; nothing after finish(). */
  async abort(status: number): Promise<void> {
    if (this.ended) return
    await sleep(LAST_WORDS_MS)
    this.native.abort(status)
  }
}

/**
 * Makes this process a rank of the job that mpirun or srun started; call it before Model.load, and
 * give the job to the Trainer. undefined where there is no such job. Also limits the process to its
 * share of the host's CPUs and to one GPU, where the launcher has not. Throws UNSUPPORTED where MPI is missing or
 * its ranks do not find one another.
 */
export async function joinJob(options: JoinOptions = {}): Promise<Job | undefined> {
  const { distributed, timeout } = validate(schema, options, 'joinJob options')
  const launch = detectLaunch()
  if (distributed === 'off' || (distributed === 'auto' && !launch)) return undefined
  if (currentJob()) throw new S2FTError('BUSY', 'this process has joined a job already')
  const job = new Job(await native().startJob(dirname(addonPath()), timeout))
  setCurrentJob(job)
  requireLaunch(launch, job.size)
  const device = visibleDevice(process.env.CUDA_VISIBLE_DEVICES, job.hostRank, job.hostSize)
  if (device !== undefined) process.env.CUDA_VISIBLE_DEVICES = device
  return job
}
