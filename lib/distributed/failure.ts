// How a run of several ranks ends when one of them fails or is lost: one that is left writes a
// checkpoint, the others wait for it.
import { S2FTError } from '../errors.js'
import type { Job } from './job.js'

function lostRanks(error: unknown, job: Job): number[] {
  if (!(error instanceof S2FTError) || error.code !== 'RANK_FAILED') return [job.rank]
  return (error.details?.ranks as number[] | undefined) ?? []
}

/**
 * Tells the others of an error of this rank. Of those that are left the lowest rank calls
 * `checkpoint`, which returns its path, if any; all return once that is done. Returns the error to
 * throw, which names the checkpoint.
 */
export async function endFailedRun(
  job: Job,
  error: unknown,
  checkpoint: () => Promise<string | undefined>,
): Promise<unknown> {
  const message = error instanceof Error ? error.message : String(error)
  const lost = lostRanks(error, job)
  await job.fail(message)
  const writer = Array.from({ length: job.size }, (_, rank) => rank).find(
    (rank) => !lost.includes(rank),
  )
  if (writer !== job.rank) {
    if (writer !== undefined) await job.native.waitDone(writer)
    return error
  }
  let outcome: string
  let path: string | undefined
  try {
    path = await checkpoint()
    outcome = path === undefined ? '' : `; resume from ${path}`
  } catch (cause) {
    outcome = `; no checkpoint could be written: ${(cause as Error).message}`
  }
  await job.native.done()
  if (!(error instanceof S2FTError)) return error
  return new S2FTError(error.code, message + outcome, {
    details: { ...error.details, ...(path === undefined ? {} : { checkpoint: path }) },
    cause: error,
  })
}
