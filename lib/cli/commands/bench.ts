// s2ft bench: the group of benchmarks; each has a file of its own.
import { Command } from 'commander'
import { packageVersion } from '../common.js'
import { benchAllCommand } from './bench-all.js'
import { benchGrowthCommand } from './bench-growth.js'
import { benchMemoryCommand } from './bench-memory.js'
import { benchOpsCommand } from './bench-ops.js'
import { benchRealCommand } from './bench-real.js'
import { benchReportCommand } from './bench-report.js'
import { benchServeCommand } from './bench-serve.js'
import { benchStudyCommand } from './bench-study.js'
import { benchTrainCommand } from './bench-train.js'

export function benchCommand(): Command {
  const bench = new Command('bench').description(
    'Benchmarks: train (steps), real (training on real data), ops (single operations), memory ' +
      '(plan and peak), growth (with size), serve (many adapters), all of them (all), their report, and the study of methods.',
  )
  bench.helpOption('-h, --help', 'print this help').helpCommand(false)
  bench.version(packageVersion(), '-V, --version', 'print the version')
  bench.addCommand(benchTrainCommand())
  bench.addCommand(benchRealCommand())
  bench.addCommand(benchOpsCommand())
  bench.addCommand(benchMemoryCommand())
  bench.addCommand(benchGrowthCommand())
  bench.addCommand(benchServeCommand())
  bench.addCommand(benchAllCommand())
  bench.addCommand(benchReportCommand())
  bench.addCommand(benchStudyCommand())
  return bench
}
