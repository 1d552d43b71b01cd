// s2ft bench ops: measures single operations in the shapes of one transformer block.
import type { Command } from 'commander'
import type { OpsReport } from '../../bench/ops.js'
import { shapes } from '../../bench/shapes.js'
import { S2FTError } from '../../errors.js'
import { between, percent, times } from '../../report/format.js'
import { makeBenchCommand } from '../bench-command.js'
import { type CommonOptions, valued } from '../common.js'
import { type Output, usage } from '../output.js'
import { integer, number, oneOf } from '../parse.js'
import { table } from '../table.js'

interface Options {
  shape: string
  tokens: number
  channels: number
  rank: number
  seconds: number
}

export function benchOpsCommand(): Command {
  return makeBenchCommand<Options>(
    'ops',
    'Times single operations in the shapes of one block: GFLOP/s or GB/s and the share of the ' +
      "peak measured in the same run, and S²FT's kernels against LoRA's. Prints one JSON object " +
      'an operation with --json.',
    (command) =>
      command
        .addOption(
          valued(
            '--shape <name>',
            Object.keys(shapes).join(', '),
            oneOf(...Object.keys(shapes)),
            'smollm2-135m',
          ),
        )
        .addOption(
          valued(
            '--tokens <n>',
            'tokens in a batch, one sequence',
            integer({ min: 1, max: 65536 }),
            1024,
          ),
        )
        .addOption(
          valued(
            '--channels <n>',
            'channels of gate, up and down that s2ft trains',
            integer({ min: 1 }),
            64,
          ),
        )
        .addOption(valued('--rank <r>', "LoRA's rank", integer({ min: 1, max: 4096 }), 16))
        .addOption(
          valued(
            '--seconds <s>',
            'time for each operation; at least five runs in any case',
            number({ min: 0, max: 60 }),
            0.1,
          ),
        ),
    run,
  )
}

async function run(options: Options & CommonOptions, out: Output): Promise<void> {
  const shape = shapes[options.shape]!
  if (options.channels > shape.intermediate_size) {
    throw usage(`option '--channels': expected up to ${shape.intermediate_size}`)
  }
  if (options.device === 'cuda') {
    throw new S2FTError(
      'DEVICE_UNAVAILABLE',
      'device cuda: bench ops measures the cpu backend only',
    )
  }
  const { runOps } = await import('../../bench/ops.js')
  const dtype = options.dtype === 'auto' ? 'bf16' : options.dtype
  // Ctrl-C needs no handler: nothing is on disk that would have to be put in order.
  const report = await runOps(shape, { ...options, dtype }, (group) =>
    out.note(`measuring ${group}`),
  )
  for (const line of [report.peak, ...report.ops, ...report.ratios]) out.event(line)
  print(out, options, dtype, report)
}

function time(seconds: number): string {
  const ms = seconds * 1000
  return ms >= 100 ? ms.toFixed(0) : ms.toPrecision(3)
}

function rate(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3)
}

function print(out: Output, options: Options, dtype: string, report: OpsReport): void {
  const { peak } = report
  out.line(`${options.shape}, ${dtype}, ${peak.threads} threads, ${options.tokens} tokens`)
  out.line(
    table(
      ['operation', 'ms', 'range', 'GFLOP/s', 'GB/s', 'of peak'],
      report.ops.map((op) => [
        op.op,
        time(op.seconds),
        between(op.secondsRange, time),
        op.gflops === null ? '-' : rate(op.gflops),
        rate(op.gbps),
        percent(op.shareOfPeak),
      ]),
      { right: [1, 2, 3, 4, 5] },
    ),
  )
  out.line(`\nmeasured peak: ${rate(peak.gflops)} GFLOP/s, ${rate(peak.gbps)} GB/s (copy)\n`)
  out.line(
    table(
      ['kernel', 'is faster than', 'by', 'range'],
      report.ratios.map((r) => [r.op, r.against, times(r.ratio), between(r.ratioRange)]),
      { right: [2, 3] },
    ),
  )
}
