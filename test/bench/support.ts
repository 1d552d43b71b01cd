// Runs of benchmarks with what they keep, and Pythons for the peers: a real one where it is
// found, and a stand-in.
import { spawnSync } from 'node:child_process'
import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Ran, s2ft } from '../cli/support.js'
import { temporaryDirectory } from '../support/directories.js'

/** A Python with torch, transformers and peft: S2FT_PEER_PYTHON, else python3 if it has them. */
export function peerPython(): string | undefined {
  const python = process.env.S2FT_PEER_PYTHON ?? 'python3'
  const { status } = spawnSync(python, ['-c', 'import torch, transformers, peft'])
  return status === 0 ? python : undefined
}

/**
 * An executable that answers as Python with the peers' scripts would, at once. Its figures tell
 * what it was called with; `full` fails.
 */
export function standIn(): string {
  const path = join(temporaryDirectory(), 'python')
  writeFileSync(
    path,
    `#!${process.execPath}
const [first, second] = process.argv.slice(2)
if (first === '-c') {
  console.log(JSON.stringify({ type: 'peers', python: '3', torch: '1', transformers: '2', peft: '3' }))
  process.exit()
}
const spec = JSON.parse(second)
if (spec.method === 'full') {
  console.error('Traceback: no room for moments')
  process.exit(3)
}
const kept = process.env.MALLOC_TRIM_THRESHOLD_ !== undefined
if (kept !== (spec.variant === 'tuned')) throw new Error('only the tuned variant keeps memory')
console.log('noise before the result')
console.log(JSON.stringify({
  seconds: [spec.dtype === 'f32' ? 2 : 1], trainable: spec.warmup, peakBytes: 1000, device: 'cpu',
  threads: spec.threads, lossFirst: -1, loss: 1, compilations: spec.variant === 'tuned' ? 1 : 0,
  positions: 1e6,
}))
`,
  )
  chmodSync(path, 0o755)
  return path
}

type Lines = Record<string, unknown>[]

const parse = (text: string): Lines =>
  text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line))

/** Runs a benchmark: the lines that --json prints, and those of its --output file. */
export function benchLines(args: string[]): { ran: Ran; printed: Lines; kept: Lines } {
  const file = join(temporaryDirectory(), 'results.jsonl')
  const ran = s2ft([...args, '--json', '--output', file])
  return { ran, printed: parse(ran.stdout), kept: parse(readFileSync(file, 'utf8')) }
}
