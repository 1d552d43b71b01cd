// The command tree.
import { Command } from 'commander'
import { benchCommand } from './commands/bench.js'
import { compareCommand } from './commands/compare.js'
import { dataCommand } from './commands/data.js'
import { devicesCommand } from './commands/devices.js'
import { evalCommand } from './commands/eval.js'
import { exportCommand } from './commands/export.js'
import { generateCommand } from './commands/generate.js'
import { inspectCommand } from './commands/inspect.js'
import { mergeCommand } from './commands/merge.js'
import { serveCommand } from './commands/serve.js'
import { trainCommand } from './commands/train.js'
import { packageVersion } from './common.js'

/** Ends parsing by an exception instead of process.exit, and prints no error by itself. */
function quiet(command: Command): void {
  command.exitOverride()
  command.configureOutput({ writeErr: () => {} })
  command.showSuggestionAfterError(true)
  for (const child of command.commands) quiet(child)
}

/** The whole command line; `parseAsync` runs a command, or throws a CommanderError. */
export function buildProgram(): Command {
  const program = new Command('s2ft')
    .description(
      'Fine-tunes LLaMA-family language models by structured sparse fine-tuning (S²FT).\n' +
        'Errors are one line on stderr; exit status 1, or 2 for a wrong call. S2FT_DEBUG=1 prints stacks.',
    )
    .version(packageVersion(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .helpCommand(false)
  const commands = [
    trainCommand(),
    evalCommand(),
    compareCommand(),
    generateCommand(),
    mergeCommand(),
    exportCommand(),
    serveCommand(),
    inspectCommand(),
    dataCommand(),
    benchCommand(),
    devicesCommand(),
  ]
  for (const command of commands) program.addCommand(command)
  quiet(program)
  return program
}
