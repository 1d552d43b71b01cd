// s2ft bench: measures training steps, each case in a fresh process; bench-ops.ts has ops.
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Command } from 'commander'
import type { CaseResult } from '../../bench/case.js'
import { type BenchMethod, benchMethods, stepOperations } from '../../bench/operations.js'
import type { Case } from '../../bench/run.js'
import { type ShapeConfig, shapes } from '../../bench/shapes.js'
import { type CaseSummary, median, ratio, summarise } from '../../bench/summary.js'
import { S2FTError } from '../../errors.js'
import { type CommonOptions, makeCommand, packageVersion, valued } from '../common.js'
import { interruptSignal } from '../load.js'
import { type Output, usage } from '../output.js'
import { integer } from '../parse.js'
import { bytes, grouped, percent, table } from '../table.js'
import { benchOpsCommand } from './bench-ops.js'

interface Options {
  model: string
  methods: BenchMethod[]
  batch: number
  sequence: number
  steps: number
  warmup: number
  rounds: number
  rank: number
  channels: number
  python?: string
  compile: boolean
}

function methods(text: string): BenchMethod[] {
  const found = text.split(',')
  const unknown = found.find((name) => !(benchMethods as readonly string[]).includes(name))
  if (unknown !== undefined) {
    throw usage(`option '--methods': expected ${benchMethods.join(', ')}, found '${unknown}'`)
  }
  return [...new Set(found)] as BenchMethod[]
}

function later(name: string, description: string): Command {
  return makeCommand(
    name,
    `${description} (not in this release: comes later).`,
    (command) => command,
    async () => {
      const message = `s2ft bench ${name} comes in a later release: available are s2ft bench train, s2ft bench ops`
      throw new S2FTError('UNSUPPORTED', message)
    },
  )
}

export function benchCommand(): Command {
  const train = makeCommand<Options>(
    'train',
    'Times optimizer steps of several methods on one model, loss on all tokens, every case in a ' +
      'fresh process, in rounds of alternating order. Prints one JSON object a case with --json.',
    (command) =>
      command
        .option(
          '--model <name or dir>',
          `${Object.keys(shapes).join(', ')} (random weights), or a model directory`,
          'smollm2-135m',
        )
        .addOption(
          valued(
            '--methods <list>',
            's2ft, lora3 (feed-forward modules), lora7 (all linear modules), full',
            methods,
          ).default([...benchMethods], 'all'),
        )
        .addOption(valued('--batch <n>', 'samples in a step', integer({ min: 1 }), 4))
        .addOption(valued('--sequence <n>', 'tokens in a sample', integer({ min: 2 }), 256))
        .addOption(valued('--steps <n>', 'timed steps a round', integer({ min: 1 }), 5))
        .addOption(
          valued('--warmup <n>', 'steps before them that do not count', integer({ min: 0 }), 2),
        )
        .addOption(valued('--rounds <n>', 'processes a case', integer({ min: 1 }), 3))
        .addOption(valued('--rank <r>', "LoRA's rank", integer({ min: 1 }), 16))
        .addOption(
          valued(
            '--channels <n>',
            'channels of gate, up and down that s2ft trains',
            integer({ min: 1 }),
            64,
          ),
        )
        .option('--python <path>', 'Python with torch, transformers and peft: measure PEFT too')
        .option('--compile', 'torch.compile the peers', false),
    run,
  )
  const bench = new Command('bench').description(
    'Benchmarks: train (steps), ops (single operations), serve later.',
  )
  bench.helpOption('-h, --help', 'print this help').helpCommand(false)
  bench.version(packageVersion(), '-V, --version', 'print the version')
  bench.addCommand(train)
  bench.addCommand(benchOpsCommand())
  bench.addCommand(later('serve', 'Times generation with many adapters'))
  return bench
}

async function shapeOf(directory: string): Promise<ShapeConfig> {
  const file = join(directory, 'config.json')
  const { parseModelConfig } = await import('../../model/config.js')
  let raw: unknown
  try {
    raw = JSON.parse(await readFile(file, 'utf8'))
  } catch (cause) {
    const known = Object.keys(shapes).join(', ')
    const message = `--model: expected ${known} or a model directory: ${(cause as Error).message}`
    throw new S2FTError('IO', message, { cause })
  }
  const config = parseModelConfig(raw, file).native
  return {
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.layers,
    num_attention_heads: config.heads,
    num_key_value_heads: config.kvHeads,
    head_dim: config.headDim,
    vocab_size: config.vocabSize,
    tie_word_embeddings: config.tieWordEmbeddings,
    rope_theta: config.rope.theta,
  }
}

async function run(options: Options & CommonOptions, out: Output): Promise<void> {
  const { runRounds } = await import('../../bench/run.js')
  const shape = shapes[options.model] ?? (await shapeOf(options.model))
  if (options.channels > shape.intermediate_size) {
    throw usage(`option '--channels': expected up to ${shape.intermediate_size}`)
  }
  const dtype = options.dtype === 'auto' ? 'bf16' : options.dtype
  const interrupt = interruptSignal(() => out.note('stopping'))
  const scratch = await mkdtemp(join(tmpdir(), 's2ft-bench-'))
  try {
    let directory = options.model
    if (options.model in shapes) {
      const { writeRandomModel } = await import('../../bench/random-model.js')
      directory = join(scratch, options.model)
      await writeRandomModel(directory, shape, dtype)
    }
    const cases = casesOf(options, shape, directory, dtype)
    const tokens = options.batch * options.sequence
    const results = await runRounds(
      cases,
      options.rounds,
      (item, round, result) => {
        const speed = (tokens / median(result.seconds)).toFixed(0)
        out.note(`round ${round + 1}/${options.rounds}  ${item.name}: ${speed} tokens/s`)
      },
      interrupt.signal,
    )
    report(out, options, shape, cases, results)
  } finally {
    interrupt.stop()
    await rm(scratch, { recursive: true, force: true })
  }
}

function casesOf(
  options: Options & CommonOptions,
  shape: ShapeConfig,
  model: string,
  dtype: 'bf16' | 'f32',
): Case[] {
  const { batch, sequence, warmup, steps, threads, rank, channels, device, python } = options
  const spec = { model, dtype, device, batch, sequence, warmup, steps, threads, rank, channels }
  const sizes = { vocabulary: shape.vocab_size, intermediate: shape.intermediate_size }
  const cases: Case[] = options.methods.map((method) => ({
    name: method,
    spec: { ...spec, ...sizes, method },
  }))
  if (python === undefined) return cases
  const peers = cases
    .filter((item) => item.spec.method !== 's2ft')
    .map((item) => ({
      ...item,
      name: `peft-${item.name}`,
      peer: { python, compile: options.compile },
    }))
  return [...cases, ...peers]
}

function report(
  out: Output,
  options: Options,
  shape: ShapeConfig,
  cases: readonly Case[],
  results: readonly CaseResult[][],
): void {
  const peaks = results.flat().flatMap((r) => (r.peakGflops ? [r.peakGflops] : []))
  // Whatever disturbs a probe makes it read too low, never too high.
  const peak = peaks.length > 0 ? Math.max(...peaks) : undefined
  const { batch, sequence } = options
  const summaries = cases.map((item, i) => {
    const operations = stepOperations(shape, item.spec.method, batch, sequence, options)
    return summarise(item, options.model, results[i]!, operations / 1e9, peak)
  })
  for (const summary of summaries) out.event(summary)
  const first = summaries[0]!
  out.line(
    `${options.model}, ${first.dtype}, ${first.device}, ${first.threads} threads, ${batch} x ${sequence} tokens a step`,
  )
  const ratios = results.map((own) => ({
    speed: ratio(results[0]!, own, (r) => 1 / median(r.seconds)),
    memory: ratio(results[0]!, own, (r) => r.peakBytes ?? Number.NaN),
  }))
  out.line(
    table(
      [
        'method',
        'trainable',
        'tokens/s',
        'range',
        'peak memory',
        'GFLOP',
        'of peak',
        `${first.method} is faster by`,
        'range',
        'with memory of',
      ],
      summaries.map((summary, i) => row(summary, ratios[i]!)),
      { right: [1, 2, 3, 4, 5, 6, 7, 8, 9] },
    ),
  )
  if (peak) out.line(`\nmeasured peak: ${peak.toFixed(0)} GFLOP/s`)
}

function row(
  s: CaseSummary,
  { speed, memory }: Record<'speed' | 'memory', ReturnType<typeof ratio>>,
): string[] {
  const [low, high] = s.tokensPerSecondRange
  return [
    s.method,
    grouped(s.trainable),
    s.tokensPerSecond.toFixed(0),
    `${low.toFixed(0)}-${high.toFixed(0)}`,
    s.peakBytes === null ? '-' : bytes(s.peakBytes),
    s.gflop.toFixed(0),
    s.shareOfPeak === null ? '-' : percent(s.shareOfPeak),
    `${speed.median.toFixed(2)}x`,
    `${speed.range[0].toFixed(2)}-${speed.range[1].toFixed(2)}`,
    s.peakBytes === null ? '-' : `${memory.median.toFixed(2)}x`,
  ]
}
