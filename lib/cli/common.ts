// What every command has in common: its shared options and how an action is run.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command, Option } from 'commander'
import type { DType } from '../native/binding.js'
import { packageRoot } from '../native/load.js'
import { Output } from './output.js'
import { integer, oneOf } from './parse.js'

/** The package's version, as package.json has it. */
export function packageVersion(): string {
  const text = readFileSync(join(packageRoot, 'package.json'), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}

/** Values of the options that every command takes. */
export interface CommonOptions {
  json: boolean
  device: 'cpu' | 'cuda' | 'auto'
  dtype: DType | 'auto'
  threads: number
  arithmetic: 'auto' | 'native' | 'widen'
}

/** An option whose value is read and checked by `read`; `fallback` is shown as its default. */
export function valued<T>(
  flags: string,
  description: string,
  read: (text: string, before: T | undefined) => T,
  fallback?: NoInfer<T>,
): Option {
  const option = new Option(flags, description).argParser(read)
  return fallback === undefined ? option : option.default(fallback)
}

/** For commands that only read a model. */
export function quantizeOption(): Option {
  return valued(
    '--quantize <type>',
    "keep the blocks' linear weights in 8 or 4 bits: int8, nf4",
    oneOf('int8', 'nf4'),
  )
}

/**
 * A command with the common options. `run` gets the option values by their camelCase names;
 * modules that need the native addon belong inside it, so that --help works without.
 */
export function makeCommand<T extends object>(
  name: string,
  description: string,
  setup: (command: Command) => Command,
  run: (options: T & CommonOptions, out: Output, command: Command) => Promise<void>,
): Command {
  const command = setup(new Command(name).description(description))
  command
    .addOption(
      valued(
        '--device <kind>',
        'where to compute: cpu, cuda or auto',
        oneOf('cpu', 'cuda', 'auto'),
        'auto',
      ),
    )
    .addOption(
      valued(
        '--dtype <type>',
        'how weights are stored: bf16, f32, or auto (as in the checkpoint)',
        oneOf('bf16', 'f32', 'auto'),
        'auto',
      ),
    )
    .addOption(
      valued(
        '--threads <n>',
        'CPU threads; 0 takes all CPUs of the process',
        integer({ min: 0, max: 1024 }),
        0,
      ),
    )
    .addOption(
      valued(
        '--arithmetic <kind>',
        "products of bf16 weights: native (the CPU's bf16 instruction), widen (f32), or auto " +
          '(the faster, measured)',
        oneOf('auto', 'native', 'widen'),
        'auto',
      ),
    )
    .option('--json', 'print one JSON object a line on stdout, and nothing else there', false)
    .version(packageVersion(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .action(async (...args: unknown[]) => {
      const options = command.opts<T & CommonOptions>()
      const positional = args.slice(0, command.registeredArguments.length)
      const names = command.registeredArguments.map((argument) => argument.name())
      const values = Object.fromEntries(names.map((key, i) => [key, positional[i]]))
      await run({ ...values, ...options }, new Output(options.json), command)
    })
  return command
}
