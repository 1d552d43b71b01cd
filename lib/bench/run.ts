// Runs benchmark cases: a fresh child process each, in rounds that alternate their order, so
// that drift of the machine falls on all of them alike.
import { S2FTError } from '../errors.js'
import type { CaseResult, CaseSpec } from './case.js'
import { type Peer, type PlannedPeer, peerCommand, peerWarmup } from './peers.js'
import { type ChildCommand, ownScript, runChild } from './process.js'

export { ownScript, runChild } from './process.js'

/** A case and who runs it: this engine, or PyTorch's through bench/peer. */
export interface Case<S extends { threads: number } = CaseSpec> {
  /** The method as it is reported: `s2ft`, `peft-lora7`. */
  name: string
  spec: S
  /** Which script, or pair of scripts, measures it; default 'train'. */
  script?: keyof typeof ourScripts
  peer?: Peer
}

/** The case of a peer; compiled code is kept in `cache` for the case's later rounds. */
export function peerCase<S extends { threads: number; warmup: number }>(
  planned: PlannedPeer,
  spec: S,
  cache: string,
): Case<S> {
  const { name, python, variant } = planned
  const warmup = peerWarmup(variant, spec.warmup)
  return { name, spec: { ...spec, warmup }, peer: { python, variant, cache } }
}

/** Our side of the scripts; the peers' have the same names in bench/peer. */
const ourScripts = { train: 'case.js', real: 'real-case.js', load: 'load-case.js' }

type AnyCase = Case<{ threads: number; dtype?: string; batch?: number }>

/** `peft-lora7 bf16 tuned, batch 8`: a case among its fellows, for people. */
export function caseLabel({ name, spec, peer }: AnyCase): string {
  const words = [name, spec.dtype, peer?.variant].filter((word) => word !== undefined)
  return spec.batch === undefined ? words.join(' ') : `${words.join(' ')}, batch ${spec.batch}`
}

function commandOf({ spec, peer, script = 'train' }: AnyCase): ChildCommand {
  return peer ? peerCommand(script, spec, peer) : ownScript(ourScripts[script], spec)
}

/** Measures one case in a child process. Throws as runChild. */
export function runCase<R = CaseResult>(item: AnyCase, signal?: AbortSignal): Promise<R> {
  return runChild<R>(caseLabel(item), commandOf(item), signal)
}

/** All cases, `rounds` times, every second round in reverse order; results by case and round. */
export function runRounds<C extends AnyCase = Case, R = CaseResult>(
  cases: readonly C[],
  rounds: number,
  onResult: (item: C, round: number, result: R) => void,
  signal?: AbortSignal,
  onFailure?: (item: C, error: S2FTError) => void,
): Promise<R[][]> {
  return inRounds(cases, rounds, (item) => runCase<R>(item, signal), onResult, onFailure)
}

/**
 * As runRounds, for whatever `run` measures. With `onFailure` an item that fails is told of and
 * left out from then on, its results are empty, and the others go on; without, the first failure
 * ends the run. A cancelled one always does.
 */
export async function inRounds<T, R>(
  items: readonly T[],
  rounds: number,
  run: (item: T) => Promise<R>,
  onResult: (item: T, round: number, result: R) => void,
  onFailure?: (item: T, error: S2FTError) => void,
): Promise<R[][]> {
  const results: R[][] = items.map(() => [])
  const failed = new Set<number>()
  for (let round = 0; round < rounds; round++) {
    const order = [...items.keys()]
    if (round % 2 === 1) order.reverse()
    for (const i of order) {
      if (failed.has(i)) continue
      const item = items[i]!
      try {
        const result = await run(item)
        results[i]!.push(result)
        onResult(item, round, result)
      } catch (error) {
        const known = error instanceof S2FTError && error.code !== 'CANCELLED'
        if (!known || !onFailure) throw error
        failed.add(i)
        results[i] = []
        onFailure(item, error)
      }
    }
  }
  return results
}
