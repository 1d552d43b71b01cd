// The peers: PyTorch with transformers and PEFT, run by the scripts in bench/peer.
import { existsSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { S2FTError } from '../errors.js'
import { packageRoot } from '../native/load.js'
import type { BenchMethod } from './operations.js'
import { type ChildCommand, runChild } from './process.js'

/** `eager`: as it comes. `tuned`: compiled, and with freed memory kept by malloc. */
export const peerVariants = ['eager', 'tuned'] as const
export type PeerVariant = (typeof peerVariants)[number]

/** A Python with torch, transformers and peft, and how it is to train. */
export interface Peer {
  python: string
  variant: PeerVariant
  /** Directory for compiled code, so that a case's later rounds need not compile again. */
  cache?: string
}

/** Names of the peers' methods, and the methods of ours that they are counted as. */
export const peerMethods = {
  'peft-lora3': 'lora3',
  'peft-lora7': 'lora7',
  'peft-dora3': 'dora3',
  'peft-full': 'full',
  'torch-s2ft': 's2ft',
} as const satisfies Record<string, BenchMethod>
export type PeerMethod = keyof typeof peerMethods

/** A peer that is to be measured, without what it trains on. */
export interface PlannedPeer extends Peer {
  name: PeerMethod
  method: BenchMethod
  dtype: 'bf16' | 'f32'
}

/** Compiling takes the first step, and a second one where gradients first exist. */
const TUNED_WARMUP = 3

/** Freed memory stays with the process: training's blocks of many MB are taken again at once. */
const keptMemory = {
  MALLOC_TRIM_THRESHOLD_: `${2 ** 32}`,
  MALLOC_MMAP_THRESHOLD_: `${2 ** 32}`,
  MALLOC_TOP_PAD_: `${2 ** 26}`,
}

/** CPUs this process may run on. */
function allowedCpus(): number[] {
  try {
    const status = readFileSync('/proc/self/status', 'utf8')
    const ranges = status.match(/^Cpus_allowed_list:\s*(\S+)/m)![1]!
    return ranges.split(',').flatMap((range) => {
      const [first = 0, last = first] = range.split('-').map(Number)
      return Array.from({ length: last - first + 1 }, (_, i) => first + i)
    })
  } catch {
    return Array.from({ length: availableParallelism() }, (_, i) => i)
  }
}

/** How many steps a peer takes before the clock starts, when `asked` were asked for. */
export function peerWarmup(variant: PeerVariant, asked: number): number {
  return variant === 'tuned' ? Math.max(asked, TUNED_WARMUP) : asked
}

/** The process that measures `spec` in bench/peer/`script`.py. Pins PyTorch's threads. */
export function peerCommand(script: string, spec: { threads: number }, peer: Peer): ChildCommand {
  const cpus = allowedCpus()
  const threads = spec.threads || cpus.length
  const pinned = cpus.slice(0, threads).map((cpu) => `{${cpu}}`)
  const env = {
    ...process.env,
    OMP_NUM_THREADS: `${threads}`,
    MKL_NUM_THREADS: `${threads}`,
    ...(pinned.length === threads && { OMP_PROC_BIND: 'true', OMP_PLACES: pinned.join(',') }),
    HF_HUB_OFFLINE: '1',
    TOKENIZERS_PARALLELISM: 'false',
    ...(peer.variant === 'tuned' && keptMemory),
    ...(peer.cache !== undefined && { TORCHINDUCTOR_CACHE_DIR: peer.cache }),
  }
  const options = { ...spec, threads, variant: peer.variant }
  return { file: peer.python, args: [scriptPath(script), JSON.stringify(options)], env }
}

function scriptPath(script: string): string {
  const path = join(packageRoot, 'bench', 'peer', `${script}.py`)
  if (existsSync(path)) return path
  throw new S2FTError('IO', `expected the peer's script at ${path}: run from a source checkout`)
}

/** What the peers run on; the first JSON line of a run with peers. */
export interface PeerVersions {
  type: 'peers'
  python: string
  torch: string
  transformers: string
  peft: string
}

/**
 * Asks a Python for the versions of what the peers need, without loading it.
 * @throws S2FTError IO or INTERNAL when it cannot be run or misses a package
 */
export async function peerVersions(python: string, signal?: AbortSignal): Promise<PeerVersions> {
  scriptPath('train')
  const code =
    'import json, platform; from importlib.metadata import version; ' +
    "print(json.dumps({'type': 'peers', 'python': platform.python_version(), " +
    "**{name: version(name) for name in ('torch', 'transformers', 'peft')}}))"
  const name = '--python: expected a Python with torch, transformers and peft'
  const command = { file: python, args: ['-c', code], env: process.env }
  return runChild<PeerVersions>(name, command, signal)
}
