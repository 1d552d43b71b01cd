// s2ft bench real: trains on real data at its true lengths, as a user does, beside the peers.
import { basename, join } from 'node:path'
import type { Command } from 'commander'
import type { BenchMethod } from '../../bench/operations.js'
import { peerVersions } from '../../bench/peers.js'
import { ratioLines } from '../../bench/ratios.js'
import type { RealResult, RealSpec } from '../../bench/real-case.js'
import { type RealCase, samplesPerSecond, summariseReal } from '../../bench/real-summary.js'
import { peerCase } from '../../bench/run.js'
import { identityOf } from '../../bench/summary.js'
import type { EncodedSample } from '../../data/index.js'
import { between, grouped, percent } from '../../report/format.js'
import { makeBenchCommand } from '../bench-command.js'
import { benchShape } from '../bench-model.js'
import {
  addMethodOptions,
  addPeerOptions,
  type BenchDtype,
  checkChannels,
  type MethodOptions,
  type PeerOptions,
  plannedPeers,
} from '../bench-options.js'
import { measureCases, reportTable, withScratch } from '../bench-run.js'
import { type CommonOptions, valued } from '../common.js'
import { type Output, usage } from '../output.js'
import { integer, integers } from '../parse.js'

const LEARNING_RATE = 2e-4

interface Options extends MethodOptions, PeerOptions {
  model?: string
  data?: string
  batch: number
  peerBatches?: number[]
  steps: number
  warmup: number
  maxLength: number
}

export function benchRealCommand(): Command {
  return makeBenchCommand<Options>(
    'real',
    'Times training on a data file at its true lengths, prompts masked: samples a second, ' +
      'padding, memory and loss, beside peers that pad their batches. The same samples in the ' +
      'same order on all sides. Prints one JSON object a case with --json.',
    (command) => {
      command
        .option('--model <dir>', 'a model directory with a tokenizer')
        .option('--data <file>', 'training data, as for s2ft train')
        .addOption(valued('--batch <n>', 'samples in a step', integer({ min: 1 }), 8))
        .addOption(
          valued('--steps <n>', 'timed steps of --batch samples a round', integer({ min: 1 }), 6),
        )
        .addOption(
          valued('--warmup <n>', 'steps before them that do not count', integer({ min: 1 }), 2),
        )
        .addOption(valued('--max-length <n>', 'samples are cut to this', integer({ min: 2 }), 1024))
      addMethodOptions(command, { methods: ['s2ft'], rounds: 2 })
      addPeerOptions(command, 'peft-lora7')
      return command.addOption(
        valued(
          '--peer-batches <list>',
          'samples in a step of the peers (default: that of --batch)',
          integers({ min: 1 }),
        ),
      )
    },
    run,
  )
}

/** What all cases of a run train on. */
interface Data {
  directory: string
  file: string
  samples: readonly EncodedSample[]
  /** Those that the clock runs for. */
  timed: readonly EncodedSample[]
  /** The untrained model's loss on the first batch, by its size. */
  losses: ReadonlyMap<number, number>
}

async function run(options: Options & CommonOptions, out: Output): Promise<void> {
  const { model: directory, data: file, batch, warmup } = options
  if (directory === undefined) throw usage("option '--model' is needed: a model directory")
  if (file === undefined) throw usage("option '--data' is needed: a data file")
  const dtype = options.dtype === 'auto' ? 'bf16' : options.dtype
  const peers = plannedPeers(options, { methods: ['peft-lora7'], dtype })
  if (peers.length === 0 && options.peerBatches) {
    throw usage("option '--peer-batches': expected --python too")
  }
  const peerBatches = options.peerBatches ?? [batch]
  if (Math.max(...peerBatches) > batch) {
    // So that there are samples enough for a tuned peer's longer warm-up.
    throw usage(`option '--peer-batches': expected up to --batch, ${batch}`)
  }
  const { baseLosses, realSamples, writeSamples } = await import('../../bench/real-data.js')
  const { intermediate_size: intermediate } = await benchShape(directory)
  checkChannels(options, intermediate)
  await withScratch(out, async (scratch, signal) => {
    if (options.python !== undefined) out.keep(await peerVersions(options.python, signal))
    const { device, arithmetic, threads, maxLength } = options
    const count = (warmup + options.steps) * batch
    const samples = await realSamples(directory, file, count, { batchSize: batch, maxLength })
    const path = join(scratch, 'samples.json')
    await writeSamples(path, samples)
    const load = { device, dtype, arithmetic, threads }
    const losses = await baseLosses(directory, load, samples, [batch, ...peerBatches])
    const common = { model: directory, samples: path, timedFrom: warmup * batch, warmup }
    const machine = { device, arithmetic, threads }
    const sizes = { rank: options.rank, channels: options.channels, intermediate }
    const specOf = (method: BenchMethod, type: BenchDtype, size: number): RealSpec => ({
      ...common,
      ...machine,
      ...sizes,
      method,
      dtype: type,
      batch: size,
      learningRate: LEARNING_RATE,
    })
    const cases: RealCase[] = [
      ...options.methods.map((method) => ({ name: method, spec: specOf(method, dtype, batch) })),
      ...peers.flatMap((peer) =>
        peerBatches.map((size) => peerCase(peer, specOf(peer.method, peer.dtype, size), scratch)),
      ),
    ].map((item) => ({ ...item, script: 'real' as const }))
    const timed = samples.slice(warmup * batch)
    const speed = samplesPerSecond(timed.length)
    await measureCases<RealCase, RealResult>(
      out,
      {
        bench: 'real',
        cases,
        rounds: options.rounds,
        progress: (_, result) => `${speed(result).toFixed(2)} samples/s`,
        expectedLoss: (item) => losses.get(item.spec.batch),
      },
      signal,
      (done, results) => report(out, { directory, file, samples, timed, losses }, done, results),
    )
  })
}

function report(
  out: Output,
  { directory: model, file: data, timed, losses }: Data,
  cases: readonly RealCase[],
  results: readonly RealResult[][],
): void {
  const summaries = cases.map((item, i) => {
    const lossBase = losses.get(item.spec.batch)!
    return summariseReal(item, { model, data, timed, lossBase }, results[i]!)
  })
  for (const summary of summaries) out.event(summary)
  const { device, threads, samples, tokens, trainedShare } = summaries[0]!
  out.line(
    `${basename(model)}, ${device}, ${threads} threads, ${samples} samples of ${basename(data)}: ` +
      `${(tokens / samples).toFixed(0)} tokens each, ${percent(trainedShare)} of them trained`,
  )
  const ratios = ratioLines(
    { bench: 'real', model, quantity: 'samplesPerSecond' },
    cases.map((item, i) => ({ identity: identityOf(item), results: results[i]! })),
    samplesPerSecond(timed.length),
  )
  reportTable(out, summaries, ratios, [
    ['batch', (s) => `${s.batch}`],
    ['trainable', (s) => grouped(s.trainable)],
    ['samples/s', (s) => s.samplesPerSecond.toFixed(2)],
    ['range', (s) => between(s.samplesPerSecondRange)],
    ['tokens/s', (s) => s.tokensPerSecond.toFixed(0)],
    ['padding', (s) => percent(s.padding)],
    ['loss', (s) => `${s.lossFirst.toFixed(3)}-${s.lossLast.toFixed(3)}`],
  ])
}
