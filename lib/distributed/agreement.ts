// Ranks that do not train the same model on the same data in the same way must not start.
import { S2FTError } from '../errors.js'
import { show } from '../model/validate.js'
import { canonical } from '../trainer/state.js'
import type { Job } from './job.js'

/**
 * Compares what decides the numbers of a run, and their last bits, with rank 0's. Throws
 * INVALID_ARGUMENT on every rank, naming the first other rank and field.
 */
export async function requireAgreement(job: Job, mine: Record<string, unknown>): Promise<void> {
  const all = (await job.gather(canonical(mine))).map(
    (text) => JSON.parse(text) as Record<string, unknown>,
  )
  const first = all[0]!
  for (const [rank, found] of all.entries()) {
    for (const key of new Set([...Object.keys(mine), ...Object.keys(first)])) {
      if (canonical(found[key]) === canonical(first[key])) continue
      throw new S2FTError(
        'INVALID_ARGUMENT',
        `rank ${rank}: ${key}: expected ${show(first[key])} as rank 0 has, found ` +
          `${show(found[key])}: ranks must train the same model on the same data with the same options`,
        { details: { rank, option: key, expected: first[key], found: found[key] } },
      )
    }
  }
}
