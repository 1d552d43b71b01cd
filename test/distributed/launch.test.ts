// What of the environment says that a launcher started several ranks.
import { expect, test } from 'vitest'
import { visibleDevice } from '../../lib/distributed/devices.js'
import { detectLaunch, requireLaunch } from '../../lib/distributed/launch.js'
import { joinJob } from '../../lib/index.js'
import { rejection } from '../support/rejection.js'

test('launchers are known by their variables', () => {
  expect(detectLaunch({})).toBeUndefined()
  expect(detectLaunch({ OMPI_COMM_WORLD_SIZE: '4', OMPI_COMM_WORLD_RANK: '1' })?.size).toBe(4)
  expect(detectLaunch({ PMI_SIZE: '2', PMI_RANK: '0' })?.size).toBe(2)
  expect(detectLaunch({ SLURM_NTASKS: '8', SLURM_STEP_ID: '3' })?.size).toBe(8)
  // A single rank trains as a process on its own does.
  expect(detectLaunch({ OMPI_COMM_WORLD_SIZE: '1', OMPI_COMM_WORLD_RANK: '0' })).toBeUndefined()
  // A batch script, and salloc's shell.
  expect(detectLaunch({ SLURM_NTASKS: '8', SLURM_PROCID: '0' })).toBeUndefined()
  expect(detectLaunch({ PMI_SIZE: 'many', PMI_RANK: '0' })).toBeUndefined()
  // A step of one task inside a larger allocation.
  const step = { SLURM_STEP_NUM_TASKS: '1', SLURM_NTASKS: '8', SLURM_STEP_ID: '0' }
  expect(detectLaunch(step)).toBeUndefined()
})

test('ranks that did not find one another are told how to', () => {
  expect(() => requireLaunch({ size: 4, variable: 'SLURM_NTASKS' }, 1)).toThrow(
    /expected 4 ranks as SLURM_NTASKS says, found that MPI knows 1/,
  )
  requireLaunch({ size: 4, variable: 'SLURM_NTASKS' }, 4)
  requireLaunch(undefined, 3)
})

test('a process on its own joins nothing', async () => {
  expect(await joinJob()).toBeUndefined()
  expect(await joinJob({ distributed: 'off' })).toBeUndefined()
  const error = await rejection(() => joinJob({ distributed: 'nccl' as 'mpi' }))
  expect(error.message).toMatch(/distributed: /)
})

test('each rank of a host sees one GPU', () => {
  expect(visibleDevice(undefined, 1, 2)).toBe('1')
  expect(visibleDevice('4, 6', 1, 2)).toBe('6')
  expect(visibleDevice('GPU-a,GPU-b,GPU-c', 0, 2)).toBe('GPU-a')
  // The launcher has given each rank its own, or none.
  expect(visibleDevice('0', 1, 2)).toBeUndefined()
  expect(visibleDevice('', 1, 2)).toBeUndefined()
})
