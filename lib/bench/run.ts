// Runs benchmark cases: a fresh child process each, in rounds that alternate their order, so
// that drift of the machine falls on all of them alike.
import { spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { S2FTError } from '../errors.js'
import { packageRoot } from '../native/load.js'
import type { CaseResult, CaseSpec } from './case.js'

/** A case and who runs it: this engine, or PyTorch's through bench/peer.py. */
export interface Case {
  name: string
  spec: CaseSpec
  peer?: { python: string; compile: boolean }
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

function commandOf(item: Case): { file: string; args: string[]; env: NodeJS.ProcessEnv } {
  const { spec, peer } = item
  if (!peer) {
    const script = join(dirname(fileURLToPath(import.meta.url)), 'case.js')
    return {
      file: process.execPath,
      args: ['--expose-gc', script, JSON.stringify(spec)],
      env: process.env,
    }
  }
  const script = join(packageRoot, 'bench', 'peer.py')
  if (!existsSync(script)) {
    throw new S2FTError('IO', `expected the peer's script at ${script}: run from a source checkout`)
  }
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
  }
  const options = { ...spec, threads, compile: peer.compile }
  return { file: peer.python, args: [script, JSON.stringify(options)], env }
}

/**
 * Measures one case in a child process.
 * @throws S2FTError INTERNAL with the end of the child's stderr when it fails
 */
export async function runCase(item: Case, signal?: AbortSignal): Promise<CaseResult> {
  const { file, args, env } = commandOf(item)
  const child = spawn(file, args, {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(signal && { signal }),
  })
  let out = ''
  let errors = ''
  child.stdout.on('data', (data: Buffer) => (out += data))
  child.stderr.on('data', (data: Buffer) => (errors = (errors + data).slice(-4000)))
  const status = await new Promise<string | number>((resolve, reject) => {
    child.on('error', (cause) => {
      const code = cause.name === 'AbortError' ? 'CANCELLED' : 'IO'
      reject(new S2FTError(code, `${item.name}: ${file}: ${cause.message}`, { cause }))
    })
    child.on('close', (code, killed) => resolve(code ?? killed ?? 'unknown'))
  })
  if (status !== 0) {
    const why = errors.trim().split('\n').slice(-12).join(' | ')
    throw new S2FTError('INTERNAL', `case ${item.name} ended with status ${status}: ${why}`)
  }
  return JSON.parse(out.trim().split('\n').at(-1)!) as CaseResult
}

/** All cases, `rounds` times, every second round in reverse order; results by case and round. */
export async function runRounds(
  cases: readonly Case[],
  rounds: number,
  onResult: (item: Case, round: number, result: CaseResult) => void,
  signal?: AbortSignal,
): Promise<CaseResult[][]> {
  const results: CaseResult[][] = cases.map(() => [])
  for (let round = 0; round < rounds; round++) {
    const order = [...cases.keys()]
    if (round % 2 === 1) order.reverse()
    for (const i of order) {
      const result = await runCase(cases[i]!, signal)
      results[i]!.push(result)
      onResult(cases[i]!, round, result)
    }
  }
  return results
}
