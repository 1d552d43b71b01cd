// s2ft bench growth: step time and memory along axes of size, and loading along the file's.
import { availableParallelism } from 'node:os'
import type { Command } from 'commander'
import type {
  GrowthFit,
  GrowthLine,
  GrowthSkipped,
  LoadGrowth,
  StepGrowth,
} from '../../bench/growth.js'
import { type Axis, type GrowthAxis, growthAxes } from '../../bench/growth-axes.js'
import { S2FTError } from '../../errors.js'
import { between, bytes, difference, grouped, percent, times } from '../../report/format.js'
import { makeBenchCommand } from '../bench-command.js'
import { withScratch } from '../bench-run.js'
import { type CommonOptions, valued } from '../common.js'
import type { Output } from '../output.js'
import { integer, listOf, number } from '../parse.js'
import { table } from '../table.js'

interface Options {
  axis: GrowthAxis[]
  rounds: number
  warmup: number
  steps: number
  seconds: number
  quick: boolean
}

export function benchGrowthCommand(): Command {
  return makeBenchCommand<Options>(
    'growth',
    'Measures step time and peak memory against tokens, layers, width, trainable share and ' +
      'threads, and loading time and memory against the size of the file: random weights, every ' +
      'point in a fresh process, and the exponent by which each quantity grows. --dtype auto is ' +
      'bf16. Prints one JSON object a point with --json.',
    (command) =>
      command
        .addOption(
          valued('--axis <list>', growthAxes.join(', '), listOf(...growthAxes)).default(
            [...growthAxes],
            'all',
          ),
        )
        .addOption(valued('--rounds <n>', 'processes a point', integer({ min: 1 }), 2))
        .addOption(valued('--steps <n>', 'timed steps a round, at most', integer({ min: 1 }), 5))
        .addOption(
          valued(
            '--seconds <s>',
            'no further step of a round after so long; one is timed in any case',
            number({ above: 0 }),
            2,
          ),
        )
        .addOption(
          valued('--warmup <n>', 'steps before them that do not count', integer({ min: 0 }), 1),
        )
        .option('--quick', 'fewer points of small shapes, to see that all works', false),
    run,
  )
}

async function run(options: Options & CommonOptions, out: Output): Promise<void> {
  if (options.device === 'cuda') {
    throw new S2FTError(
      'DEVICE_UNAVAILABLE',
      'device cuda: bench growth measures the cpu backend only',
    )
  }
  const { makeAxes } = await import('../../bench/growth-axes.js')
  const { runAxis } = await import('../../bench/growth-run.js')
  const { quick, axis: wanted, arithmetic, rounds, warmup, steps, seconds } = options
  const dtype = options.dtype === 'auto' ? 'bf16' : options.dtype
  const threads = options.threads || availableParallelism()
  await withScratch(out, async (scratch, signal) => {
    for (const axis of makeAxes({ quick, threads, dtype })) {
      if (!wanted.includes(axis.axis)) continue
      const how = { dtype, device: 'cpu' as const, arithmetic, rounds, warmup, steps, seconds }
      const lines = await runAxis(axis, how, scratch, (text) => out.note(text), signal)
      for (const line of lines) {
        if (line.type === 'growth') out.event(line)
        else out.keep(line)
        if (out.json && line.type === 'growth-skipped') out.note(skipped(line))
      }
      print(out, axis, lines)
    }
  })
}

function print(out: Output, axis: Axis, lines: readonly GrowthLine[]): void {
  const points = lines.filter((line) => line.type === 'growth')
  const { base } = axis.series[0]!
  const shape =
    axis.measures === 'load'
      ? `width ${base.hidden_size}`
      : `${base.num_hidden_layers} layers of width ${base.hidden_size}, ${base.batch} x ` +
        `${base.sequence} tokens, ${base.threads} threads, ${base.channels} channels`
  out.line(`${axis.axis}: ${shape}, where the axis does not say otherwise`)
  if (axis.remark) out.line(`(${axis.remark})`)
  if (axis.measures === 'load') printLoads(out, points as LoadGrowth[])
  else printSteps(out, axis, points as StepGrowth[])
  for (const line of lines) if (line.type === 'growth-skipped') out.line(skipped(line))
  for (const { name } of axis.series) {
    const fits = lines.filter((l): l is GrowthFit => l.type === 'growth-fit' && l.series === name)
    if (fits.length > 0) out.line(exponents(axis, fits))
  }
  out.line()
}

/** x as people read it on that axis. */
function abscissa(axis: Pick<Axis, 'axis'>, x: number): string {
  if (axis.axis === 'share') return percent(x)
  return axis.axis === 'load' ? bytes(x) : grouped(x)
}

function seconds(value: number): string {
  return value.toPrecision(3)
}

function printSteps(out: Output, axis: Axis, points: readonly StepGrowth[]): void {
  out.line(
    table(
      [
        'series',
        axis.unit,
        'step s',
        'range',
        'tokens/s',
        'GFLOP',
        'of peak',
        'peak',
        'beyond the bare process',
        'of the step',
        'planned',
        'plan is off',
      ],
      points.map((p) => [
        p.series,
        abscissa(axis, p.x),
        seconds(p.seconds),
        between(p.secondsRange, seconds),
        p.tokensPerSecond.toFixed(0),
        p.gflop.toPrecision(3),
        percent(p.shareOfPeak),
        bytes(p.peakBytes),
        bytes(p.memoryBytes),
        bytes(p.stepBytes),
        bytes(p.plannedBytes),
        difference(p.planDifference),
      ]),
      { right: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11] },
    ),
  )
}

function printLoads(out: Output, points: readonly LoadGrowth[]): void {
  out.line(
    table(
      [
        'series',
        'layers',
        'file',
        'load s',
        'range',
        'a second',
        'own',
        'mapped',
        'peak',
        'of file',
      ],
      points.map((p) => [
        p.series,
        grouped(p.layers),
        bytes(p.fileBytes),
        seconds(p.seconds),
        between(p.secondsRange, seconds),
        bytes(p.bytesPerSecond),
        bytes(p.privateBytes),
        bytes(p.mappedBytes),
        bytes(p.peakBytes),
        times(p.peakBytes && p.peakBytes / p.fileBytes),
      ]),
      { right: [1, 2, 3, 4, 5, 6, 7, 8, 9] },
    ),
  )
}

function skipped(line: GrowthSkipped): string {
  const { series, x, unit, lacks, neededBytes, availableBytes } = line
  const need = `${lacks} of ${bytes(neededBytes)}, found ${bytes(availableBytes)}`
  return `left out: ${series}, ${abscissa(line, x)} ${unit}: expected ${need}`
}

const names = {
  seconds: 'time',
  stepBytes: 'memory of the step',
  memoryBytes: 'memory beyond the bare process',
  privateBytes: 'own memory',
}

function exponents(axis: Axis, fits: readonly GrowthFit[]): string {
  const { series, points, from, to } = fits[0]!
  const powers = fits.map((fit) => `${names[fit.quantity]} ~ x^${fit.exponent.toFixed(2)}`)
  const range = `${abscissa(axis, from)} to ${abscissa(axis, to)}, ${points} points`
  return `${series}: ${powers.join(', ')} (x: ${axis.unit}, ${range})`
}
