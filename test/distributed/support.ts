// Runs `s2ft train` by several ranks on this machine, as people do with mpirun.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { TrainEvent } from '../../lib/index.js'
import { mainScript, tinyModel } from '../cli/support.js'

if (!existsSync(mainScript)) throw new Error(`${mainScript} is missing: run npm run build first`)

const built = fileURLToPath(new URL('../../build/Release/libs2ft_mpi.so', import.meta.url))

/** Why these tests cannot run here; undefined where they can. */
export const missing =
  spawnSync('mpirun', ['--version']).status !== 0
    ? 'mpirun is missing (Debian: apt-get install openmpi-bin libopenmpi-dev, then npm run build)'
    : existsSync(built)
      ? undefined
      : `${built} is missing: mpi.h was not found when the addon was built`

export const trainingData = fileURLToPath(
  new URL('../../examples/quickstart/train.jsonl', import.meta.url),
)
export const heldOut = fileURLToPath(
  new URL('../../examples/quickstart/heldout.jsonl', import.meta.url),
)

/** Settings of all runs; a step of the tiny model takes some milliseconds. */
export const common = [
  ...['train', '--model', tinyModel, '--data', trainingData, '--json', '--dtype', 'f32'],
  ...['--ratios', 'o=0.25,down=0.1', '--learning-rate', '1e-3', '--batch-size', '4'],
  ...['--adam-epsilon', '1e-3', '--threads', '1'],
]

export interface Ran {
  status: number | null
  events: TrainEvent[]
  stderr: string
}

const env = { ...process.env, NO_COLOR: '1', S2FT_DEBUG: '' }
const launcher = ['--oversubscribe', '--allow-run-as-root', '--bind-to', 'none']

/** Starts ranks, each with its own arguments. */
export function startRanks(ranks: string[][], options: string[] = []): ChildProcess {
  const programs = ranks.flatMap((args, i) => [
    ...(i > 0 ? [':'] : []),
    ...['-n', '1', process.execPath, mainScript, ...args],
  ])
  return spawn('mpirun', [...launcher, ...options, ...programs], {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
}

export function startOne(args: string[]): ChildProcess {
  return spawn(process.execPath, [mainScript, ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] })
}

/** Waits for the end; `onEvent` sees every event as it comes. */
export async function finished(
  child: ChildProcess,
  onEvent: (event: TrainEvent) => void = () => {},
): Promise<Ran> {
  let stderr = ''
  child.stderr!.on('data', (text) => {
    stderr += text
  })
  const closed = once(child, 'close') as Promise<[number | null]>
  const events: TrainEvent[] = []
  for await (const line of createInterface({ input: child.stdout! })) {
    const event = JSON.parse(line) as TrainEvent
    events.push(event)
    onEvent(event)
  }
  const [status] = await closed
  return { status, events, stderr }
}

export const runRanks = (count: number, args: string[]) =>
  finished(startRanks(Array.from({ length: count }, () => args)))

/** The process of a rank of the job that writes to `output`. */
export function processOfRank(rank: number, output: string): number {
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    try {
      const variables = readFileSync(join('/proc', name, 'environ'), 'utf8').split('\0')
      const line = readFileSync(join('/proc', name, 'cmdline'), 'utf8').split('\0')
      if (variables.includes(`OMPI_COMM_WORLD_RANK=${rank}`) && line.includes(output)) {
        return Number(name)
      }
    } catch {
      // It ended, or is not ours.
    }
  }
  throw new Error(`rank ${rank} of ${output} was not found among the processes`)
}

export const stepsOf = (events: readonly TrainEvent[]) =>
  events.flatMap((event) => (event.type === 'step' ? [event] : []))
