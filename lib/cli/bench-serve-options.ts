// The options of `s2ft bench serve`: what its parts share, and what each of them adds.
import type { Command } from 'commander'
import { type ServePart, serveParts } from '../bench/serve-run.js'
import { shapes } from '../bench/shapes.js'
import { valued } from './common.js'
import { usage } from './output.js'
import { integer, integers, listOf, number } from './parse.js'

export interface ServeBenchOptions {
  only: ServePart[]
  rounds: number
  rank: number
  widths: number[]
  adapters: number[]
  layerWidth: number
  batch: number
  model: string
  inFlight: number[]
  promptTokens: number
  newTokens: number
  clients: number
  minutes: number
  loadAdapters: number
}

function count(flag: string, description: string, fallback: number, max = 65536) {
  return valued(flag, description, integer({ min: 1, max }), fallback)
}

function counts(flag: string, description: string, fallback: number[], max = 65536) {
  return valued(flag, description, integers({ min: 1, max })).default(fallback, fallback.join(','))
}

export function addServeOptions(command: Command): Command {
  const named = Object.keys(shapes).join(', ')
  return command
    .addOption(
      valued('--only <list>', serveParts.join(', '), listOf(...serveParts)).default(
        [...serveParts],
        'all',
      ),
    )
    .addOption(count('--rounds <n>', 'rounds of every case but load', 5, 1000))
    .addOption(count('--rank <r>', "LoRA's rank; S²FT takes as many parameters", 16, 1024))
    .addOption(
      counts(
        '--widths <list>',
        'switch: of square weights',
        [1024, 2048, 4096, 8192, 16384, 32768],
      ),
    )
    .addOption(
      counts('--adapters <list>', 'layer: resident adapters', [1000, 10_000, 100_000], 2 ** 24),
    )
    .addOption(count('--layer-width <n>', 'layer: its width', 1024))
    .addOption(count('--batch <n>', 'layer: requests in a batch, each with its own adapter', 64))
    .option(
      '--model <name or dir>',
      `throughput, load: ${named} (random weights; not load), or a model directory`,
      'smollm2-135m',
    )
    .addOption(
      counts(
        '--in-flight <list>',
        'throughput: sequences at once, each with its own adapter',
        [1, 8, 64, 512],
      ),
    )
    .addOption(count('--prompt-tokens <n>', 'throughput, load: of a sequence', 16))
    .addOption(
      valued(
        '--new-tokens <n>',
        'throughput, load: of a sequence',
        integer({ min: 3, max: 65536 }),
        32,
      ),
    )
    .addOption(count('--clients <n>', 'load: clients that stream at once', 32))
    .addOption(
      valued(
        '--minutes <m>',
        'load: for so long new requests begin',
        number({ above: 0, max: 1440 }),
        0.5,
      ),
    )
    .addOption(
      valued(
        '--load-adapters <n>',
        "load: adapters beside the base, S²FT's and LoRA's in turn",
        integer({ min: 0, max: 65536 }),
        4,
      ),
    )
}

/** @throws S2FTError USAGE for values that do not go together */
export function checkServeOptions(options: ServeBenchOptions, given: readonly string[]): void {
  const { rank, widths, layerWidth, batch, adapters, only, model } = options
  const narrowest = Math.min(
    ...(only.includes('switch') ? widths : []),
    ...(only.includes('layer') ? [layerWidth] : []),
  )
  if (2 * rank > narrowest) {
    throw usage(`option '--rank': expected up to half of the least width, ${narrowest / 2}`)
  }
  const fewest = Math.min(...adapters)
  if (only.includes('layer') && batch > fewest) {
    throw usage(`option '--batch': expected up to the least of --adapters, ${fewest}`)
  }
  if (given.includes('only') && only.includes('load') && Object.hasOwn(shapes, model)) {
    throw usage("option '--model': expected a model directory with a tokenizer for load")
  }
}
