// What every benchmark's command has in common: a file that its JSON lines are kept in.
import { appendFile, readFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Command } from 'commander'
import { S2FTError } from '../errors.js'
import { type CommonOptions, makeCommand } from './common.js'
import type { Output } from './output.js'

/**
 * As makeCommand, with `--output <file>`: JSON lines are appended there, headed by one that
 * describes the command and the machine. stdout stays as it is without: what was measured, and
 * nothing of how it was or how it compares.
 */
export function makeBenchCommand<T extends object>(
  name: string,
  description: string,
  setup: (command: Command) => Command,
  run: (options: T & CommonOptions, out: Output, command: Command) => Promise<void>,
): Command {
  return makeCommand<T & { output?: string }>(
    name,
    description,
    (command) =>
      setup(command).option(
        '--output <file>',
        'append JSON lines to this file, with ratios and remarks, for s2ft bench report',
      ),
    async (options, out, command) => {
      if (options.output !== undefined) await keepLines(options.output, options.threads, out)
      await run(options, out, command)
    },
  )
}

async function keepLines(file: string, threads: number, out: Output): Promise<void> {
  const { runHeader } = await import('../bench/run-header.js')
  const { makeDirectory } = await import('../model/make-directory.js')
  await makeDirectory(dirname(file))
  // What cannot be written is told now and not behind an hour of measuring; a line that an
  // earlier run broke off is ended, so that it spoils no other.
  try {
    await appendFile(file, '')
    const text = await readFile(file, 'utf8')
    if (text !== '' && !text.endsWith('\n')) await appendFile(file, '\n')
  } catch (cause) {
    const { message } = cause as Error
    throw new S2FTError('IO', `--output: expected a file to append to: ${message}`, { cause })
  }
  out.keepIn(file, await runHeader(process.argv.slice(2), threads))
}
