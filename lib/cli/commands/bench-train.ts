// s2ft bench train: times training steps of several methods, and of the peers, on random tokens.
import type { Command } from 'commander'
import { startsAtBase } from '../../bench/agreement.js'
import type { CaseResult } from '../../bench/case.js'
import { type BenchMethod, standardMethods, stepOperations } from '../../bench/operations.js'
import { peerVersions } from '../../bench/peers.js'
import { ratioLines } from '../../bench/ratios.js'
import { type Case, peerCase } from '../../bench/run.js'
import { type ShapeConfig, shapes } from '../../bench/shapes.js'
import { identityOf, median, summarise } from '../../bench/summary.js'
import { between, grouped, percent } from '../../report/format.js'
import { makeBenchCommand } from '../bench-command.js'
import { benchDirectory, benchShape } from '../bench-model.js'
import {
  addMethodOptions,
  addPeerOptions,
  addQuantizeOption,
  type BenchDtype,
  checkChannels,
  type MethodOptions,
  ownCases,
  type PeerOptions,
  peersOf,
  plannedPeers,
  type QuantizeOptions,
} from '../bench-options.js'
import { measureCases, reportTable, withScratch } from '../bench-run.js'
import { type CommonOptions, valued } from '../common.js'
import type { Output } from '../output.js'
import { integer } from '../parse.js'

interface Options extends MethodOptions, QuantizeOptions, PeerOptions {
  model: string
  batch: number
  sequence: number
  steps: number
  warmup: number
}

export function benchTrainCommand(): Command {
  return makeBenchCommand<Options>(
    'train',
    'Times optimizer steps of several methods on one model, loss on all tokens, every case in a ' +
      'fresh process, in rounds of alternating order. Prints one JSON object a case with --json.',
    (command) => {
      command
        .option(
          '--model <name or dir>',
          `${Object.keys(shapes).join(', ')} (random weights), or a model directory`,
          'smollm2-135m',
        )
        .addOption(valued('--batch <n>', 'samples in a step', integer({ min: 1 }), 4))
        .addOption(valued('--sequence <n>', 'tokens in a sample', integer({ min: 2 }), 256))
        .addOption(valued('--steps <n>', 'timed steps a round', integer({ min: 1 }), 5))
        .addOption(
          valued('--warmup <n>', 'steps before them that do not count', integer({ min: 0 }), 2),
        )
      addQuantizeOption(command)
      addMethodOptions(command, { methods: [...standardMethods], rounds: 3 })
      return addPeerOptions(command, 'those of --methods')
    },
    run,
  )
}

async function run(options: Options & CommonOptions, out: Output): Promise<void> {
  const shape = await benchShape(options.model)
  checkChannels(options, shape.intermediate_size)
  const dtype = options.dtype === 'auto' ? 'bf16' : options.dtype
  const peers = plannedPeers(options, { methods: peersOf(options.methods), dtype })
  const own = ownCases(options)
  const tokens = options.batch * options.sequence
  await withScratch(out, async (scratch, signal) => {
    if (options.python !== undefined) out.keep(await peerVersions(options.python, signal))
    const directories = new Map<BenchDtype, string>()
    for (const type of new Set([dtype, ...peers.map((peer) => peer.dtype)])) {
      directories.set(type, await benchDirectory(options.model, shape, type, scratch))
    }
    const { device, arithmetic, threads, batch, sequence, warmup, steps } = options
    const machine = { device, arithmetic, threads }
    const sizes = { rank: options.rank, channels: options.channels }
    const specOf = (
      method: BenchMethod,
      type: BenchDtype,
      quantize: Case['spec']['quantize'] = 'none',
    ): Case['spec'] => ({
      ...machine,
      ...sizes,
      model: directories.get(type)!,
      method,
      dtype: type,
      quantize,
      batch,
      sequence,
      warmup,
      steps,
      vocabulary: shape.vocab_size,
      intermediate: shape.intermediate_size,
    })
    const cases = [
      ...own.map(
        ({ name, method, quantize }): Case => ({ name, spec: specOf(method, dtype, quantize) }),
      ),
      ...peers.map((peer) => peerCase(peer, specOf(peer.method, peer.dtype), scratch)),
    ]
    await measureCases<Case, CaseResult>(
      out,
      {
        bench: 'train',
        cases,
        rounds: options.rounds,
        progress: (_, result) => `${(tokens / median(result.seconds)).toFixed(0)} tokens/s`,
        expectedLoss: ({ spec: { quantize } }, results) => {
          const like = ({ spec }: Case) => startsAtBase(spec.method) && spec.quantize === quantize
          return results[cases.findIndex(like)]?.[0]?.lossFirst
        },
      },
      signal,
      (done, results) => report(out, options, shape, done, results),
    )
  })
}

/** The best that any process measured: whatever disturbs a probe makes it read too low. */
function peakOf(results: readonly CaseResult[], dtype: BenchDtype): number | undefined {
  const found = results.flatMap((r) => (dtype === 'f32' ? r.peakGflopsF32 : r.peakGflops) ?? [])
  return found.length > 0 ? Math.max(...found) : undefined
}

function report(
  out: Output,
  options: Options,
  shape: ShapeConfig,
  cases: readonly Case[],
  results: readonly CaseResult[][],
): void {
  const { batch, sequence } = options
  const summaries = cases.map((item, i) => {
    const { method, dtype } = item.spec
    const operations = stepOperations(shape, method, batch, sequence, options)
    // Peers measure no peak: theirs is that of this engine's cases.
    const peak = peakOf(results.flat(), dtype)
    return summarise(item, options.model, results[i]!, operations / 1e9, peak)
  })
  for (const summary of summaries) out.event(summary)
  const { device, threads } = summaries[0]!
  out.line(`${options.model}, ${device}, ${threads} threads, ${batch} x ${sequence} tokens a step`)
  const ratios = ratioLines(
    { bench: 'train', model: options.model, quantity: 'tokensPerSecond' },
    cases.map((item, i) => ({ identity: identityOf(item), results: results[i]! })),
    (result) => (batch * sequence) / median(result.seconds),
  )
  reportTable(out, summaries, ratios, [
    ['trainable', (s) => grouped(s.trainable)],
    ['tokens/s', (s) => s.tokensPerSecond.toFixed(0)],
    ['range', (s) => between(s.tokensPerSecondRange, (x) => x.toFixed(0))],
    ['GFLOP', (s) => s.gflop.toFixed(0)],
    ['of peak', (s) => percent(s.shareOfPeak)],
    ['of peak then', (s) => percent(s.shareOfPeakAround)],
  ])
  const peaks = new Map(summaries.map((s) => [s.dtype, s.peakGflops]))
  for (const [dtype, peak] of peaks) {
    if (peak) out.line(`\nmeasured peak, ${dtype}: ${peak.toFixed(0)} GFLOP/s`)
  }
}
