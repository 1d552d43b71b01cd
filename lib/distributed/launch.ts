// Whether a launcher started this process as one of several ranks.
import { S2FTError } from '../errors.js'

/** What a launcher said in the environment. */
export interface Launch {
  /** Ranks of the job, by this variable. */
  size: number
  variable: string
}

/**
 * Variables with the number of ranks, and one that only ranks have: a batch script sees the first
 * alone, and trains on its own.
 */
const LAUNCHERS = [
  ['OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK'],
  ['PMI_SIZE', 'PMI_RANK'],
  ['SLURM_STEP_NUM_TASKS', 'SLURM_STEP_ID'],
  ['SLURM_NTASKS', 'SLURM_STEP_ID'],
] as const

/** The launch by mpirun (OpenMPI, MPICH and kin) or srun; undefined for a process on its own. */
export function detectLaunch(env: NodeJS.ProcessEnv = process.env): Launch | undefined {
  for (const [variable, beside] of LAUNCHERS) {
    const size = Number(env[variable])
    if (env[beside] === undefined || !Number.isInteger(size) || size < 1) continue
    return size > 1 ? { size, variable } : undefined
  }
  return undefined
}

/** Throws UNSUPPORTED when the ranks that the launcher started did not find one another. */
export function requireLaunch(launch: Launch | undefined, size: number): void {
  if (!launch || launch.size === size) return
  throw new S2FTError(
    'UNSUPPORTED',
    `expected ${launch.size} ranks as ${launch.variable} says, found that MPI knows ${size}: ` +
      'launch with the mpirun of the MPI that s2ft opened (srun: --mpi=pmix or pmi2 as that MPI ' +
      'needs it), or train with --distributed off',
    { details: { expected: launch.size, found: size } },
  )
}
