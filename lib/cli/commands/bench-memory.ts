// s2ft bench memory: the plan beside the measured peak, and the cost of each recompute policy.
import type { Command } from 'commander'
import { type MemorySummary, memoryCases, recomputePolicies } from '../../bench/memory.js'
import { standardMethods } from '../../bench/operations.js'
import { peerVersions } from '../../bench/peers.js'
import { ratioText } from '../../bench/ratios.js'
import { shapes } from '../../bench/shapes.js'
import { S2FTError } from '../../errors.js'
import type { Recompute } from '../../native/binding.js'
import { bytes, difference, times } from '../../report/format.js'
import { makeBenchCommand } from '../bench-command.js'
import { benchDirectory, benchShape } from '../bench-model.js'
import {
  addMethodOptions,
  addQuantizeOption,
  type BenchDtype,
  checkChannels,
  type MethodOptions,
  ownCases,
  type QuantizeOptions,
} from '../bench-options.js'
import { withScratch } from '../bench-run.js'
import { type CommonOptions, valued } from '../common.js'
import type { Output } from '../output.js'
import { integer, listOf } from '../parse.js'
import { table } from '../table.js'

interface Options extends MethodOptions, QuantizeOptions {
  model: string
  recompute: Recompute[]
  batch: number
  sequence: number
  steps: number
  warmup: number
  python?: string
}

export function benchMemoryCommand(): Command {
  return makeBenchCommand<Options>(
    'memory',
    'Measures the peak memory of a step beside what the memory plan predicts, for every method ' +
      'under every recompute policy, and what a policy costs in time. --dtype auto measures bf16 ' +
      'and f32. Prints one JSON object a case with --json.',
    (command) => {
      command
        .option(
          '--model <name or dir>',
          `${Object.keys(shapes).join(', ')} (random weights), or a model directory`,
          'smollm2-135m',
        )
        .addOption(
          valued(
            '--recompute <list>',
            'none, selective (norms and SwiGLU), block (whole layers)',
            listOf(...recomputePolicies),
          ).default([...recomputePolicies], 'all'),
        )
        .addOption(valued('--batch <n>', 'samples in a step', integer({ min: 1 }), 4))
        .addOption(valued('--sequence <n>', 'tokens in a sample', integer({ min: 2 }), 256))
        .addOption(valued('--steps <n>', 'timed steps a round', integer({ min: 1 }), 2))
        .addOption(
          valued('--warmup <n>', 'steps before them that do not count', integer({ min: 0 }), 1),
        )
        .option('--python <path>', 'Python with torch, transformers and peft: measure PEFT too')
      addQuantizeOption(command)
      return addMethodOptions(command, { methods: [...standardMethods], rounds: 3 })
    },
    run,
  )
}

async function run(options: Options & CommonOptions, out: Output): Promise<void> {
  if (options.device === 'cuda') {
    throw new S2FTError(
      'DEVICE_UNAVAILABLE',
      'device cuda: bench memory measures the cpu backend only',
    )
  }
  const { runRounds } = await import('../../bench/run.js')
  const { summariseMemory } = await import('../../bench/memory.js')
  const shape = await benchShape(options.model)
  checkChannels(options, shape.intermediate_size)
  const { model, rounds, dtype, methods, quantize, json: _, ...rest } = options
  const dtypes: BenchDtype[] = dtype === 'auto' ? ['bf16', 'f32'] : [dtype]
  await withScratch(out, async (scratch, signal) => {
    if (options.python !== undefined) out.keep(await peerVersions(options.python, signal))
    const directories: Partial<Record<BenchDtype, string>> = {}
    for (const type of dtypes) {
      directories[type] = await benchDirectory(model, shape, type, scratch)
    }
    const cases = memoryCases(
      { ...rest, device: 'cpu', methods: ownCases({ methods, quantize }), dtypes },
      shape,
      directories,
    )
    const results = await runRounds(
      cases,
      rounds,
      ({ name, spec }, round, { peakBytes }) => {
        const what = [name, spec.dtype, spec.recompute].filter(Boolean).join(' ')
        out.note(`round ${round + 1}/${rounds}  ${what}: ${bytes(peakBytes)}`)
      },
      signal,
    )
    print(out, summariseMemory(cases, results, model, shape))
  })
}

function print(out: Output, summaries: readonly MemorySummary[]): void {
  for (const summary of summaries) out.event(summary)
  const first = summaries[0]!
  const peers = [...new Set(summaries.flatMap((s) => Object.keys(s.peakAgainst)))]
  out.line(
    `${first.model}, ${first.device}, ${first.threads} threads, ${first.batch} x ${first.sequence} tokens a step`,
  )
  out.line(
    table(
      [
        'method',
        'type',
        'recompute',
        'planned',
        'peak',
        'plan is off',
        'of the step',
        'repeated GFLOP',
        'step s',
        'time against none',
        'peak against none',
        ...peers.map((name) => `peak of ${name}'s`),
      ],
      summaries.map((s) => [
        s.method,
        s.dtype,
        s.recompute ?? '-',
        bytes(s.plannedBytes),
        bytes(s.peakBytes),
        difference(s.planDifference),
        bytes(s.stepBytes),
        s.recompute ? s.recomputedGflop.toFixed(0) : '-',
        s.seconds.toPrecision(3),
        ratioText(s.timeAgainstNone),
        times(s.peakAgainstNone?.median),
        ...peers.map((name) => times(s.peakAgainst[name]?.median)),
      ]),
      { right: [3, 4, 5, 6, 7, 8, 9, 10, 11, 12] },
    ),
  )
}
