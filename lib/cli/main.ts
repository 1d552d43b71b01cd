#!/usr/bin/env node
// Entry of the `s2ft` command: runs one command and turns its outcome into an exit status.
import { CommanderError } from 'commander'
import { currentJob } from '../distributed/current.js'
import { exitOnBrokenPipe, flushed, reportError, usage } from './output.js'
import { buildProgram } from './program.js'

const helpOrVersion = ['commander.helpDisplayed', 'commander.version']

async function main(args: string[]): Promise<number> {
  exitOnBrokenPipe()
  const program = buildProgram()
  try {
    if (args.length === 0) {
      const names = program.commands.map((command) => command.name()).join(', ')
      throw usage(`expected a command: ${names}; s2ft --help explains them`)
    }
    await program.parseAsync(args, { from: 'user' })
    return typeof process.exitCode === 'number' ? process.exitCode : 0
  } catch (error) {
    if (error instanceof CommanderError) {
      if (helpOrVersion.includes(error.code)) return 0
      const message = error.message.replace(/^error: /, '')
      return reportError(
        usage(
          message === '(outputHelp)'
            ? `expected a subcommand: see s2ft ${args[0]} --help`
            : message,
        ),
      )
    }
    return reportError(error)
  }
}

const status = await main(process.argv.slice(2))
await flushed()
await currentJob()?.abort(status)
process.exit(status)
