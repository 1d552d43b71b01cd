// The first line of a file of benchmark results: what ran, when, and on what.
import { availableParallelism, cpus, release, totalmem, type } from 'node:os'
import { devices } from '../model/devices.js'
import { native } from '../native/load.js'

export interface RunHeader {
  type: 'run'
  /** As one would type it. */
  command: string
  /** Of s2ft. */
  version: string
  /** When it began: ISO 8601, UTC. */
  date: string
  machine: {
    cpu: string
    /** CPUs this process may use. */
    cores: number
    /** Bytes. */
    memory: number
    os: string
  }
  node: string
  /** The library of matrix products, with its version. */
  gemm: string
  isa: string
  /** What multiplies bf16 weights: 'bf16', 'amx' or 'f32'. */
  arithmetic: string
  threads: number
}

/** Words that a shell would split or change are quoted. */
function shellWord(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`
}

/** The command line with these arguments. */
export function commandText(args: readonly string[]): string {
  return ['s2ft', ...args.map(shellWord)].join(' ')
}

/** Describes a command and the machine it runs on; `threads` 0 means all CPUs. */
export async function runHeader(args: readonly string[], threads: number): Promise<RunHeader> {
  const date = new Date().toISOString()
  const [device] = await devices({ threads })
  return {
    type: 'run',
    command: commandText(args),
    version: native().version,
    date,
    machine: {
      cpu: cpus()[0]?.model.trim() ?? 'unknown',
      cores: availableParallelism(),
      memory: totalmem(),
      os: `${type()} ${release()}`,
    },
    node: process.versions.node,
    gemm: device!.gemm,
    isa: device!.isa,
    arithmetic: device!.arithmetic,
    threads: device!.threads,
  }
}
