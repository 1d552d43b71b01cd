// s2ft bench serve: what serving many adapters takes, against LoRA on the same engine.
import { availableParallelism } from 'node:os'
import type { Command } from 'commander'
import { type ServePart, type ServeSkipped, serveParts } from '../../bench/serve-run.js'
import {
  type Figures,
  layerTable,
  skippedText,
  switchTable,
  throughputTable,
} from '../../bench/serve-tables.js'
import { shapes } from '../../bench/shapes.js'
import { S2FTError } from '../../errors.js'
import { makeBenchCommand } from '../bench-command.js'
import { benchDirectory, benchShape } from '../bench-model.js'
import { withScratch } from '../bench-run.js'
import { type CommonOptions, valued } from '../common.js'
import { type Output, usage } from '../output.js'
import { integer, integers, listOf } from '../parse.js'
import { table } from '../table.js'
import { printTargets } from '../targets.js'

interface Options {
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
}

/** What is decided before anything runs. */
type Decided = Options &
  Pick<CommonOptions, 'arithmetic' | 'device'> & { dtype: 'bf16' | 'f32'; threads: number }

const defaults = {
  widths: [1024, 2048, 4096, 8192, 16384, 32768],
  adapters: [1000, 10_000, 100_000],
  inFlight: [1, 8, 64, 512],
}

function numbers(flag: string, description: string, most: number, fallback: number[]) {
  return valued(flag, description, integers({ min: 1, max: most })).default(
    fallback,
    fallback.join(','),
  )
}

export function benchServeCommand(): Command {
  return makeBenchCommand<Options>(
    'serve',
    'Measures what serving many adapters takes, S²FT against LoRA of as many parameters on the ' +
      'same engine: exchanging the adapter in a weight, a layer with thousands of resident ' +
      'adapters, and decoding with many in flight. Cases run in fresh processes; those that ' +
      'memory does not suffice for are left out. --dtype auto is bf16. Prints one JSON object a ' +
      'case with --json.',
    (command) =>
      command
        .addOption(
          valued('--only <list>', serveParts.join(', '), listOf(...serveParts)).default(
            [...serveParts],
            'all',
          ),
        )
        .addOption(
          valued('--rounds <n>', 'rounds of every case', integer({ min: 1, max: 1000 }), 5),
        )
        .addOption(
          valued(
            '--rank <r>',
            "LoRA's rank; S²FT takes as many parameters",
            integer({ min: 1, max: 1024 }),
            16,
          ),
        )
        .addOption(numbers('--widths <list>', 'switch: of square weights', 65536, defaults.widths))
        .addOption(
          numbers('--adapters <list>', 'layer: resident adapters', 2 ** 24, defaults.adapters),
        )
        .addOption(
          valued('--layer-width <n>', 'layer: its width', integer({ min: 1, max: 65536 }), 1024),
        )
        .addOption(
          valued(
            '--batch <n>',
            'layer: requests in a batch, each with its own adapter',
            integer({ min: 1, max: 65536 }),
            64,
          ),
        )
        .option(
          '--model <name or dir>',
          `throughput: ${Object.keys(shapes).join(', ')} (random weights), or a model directory`,
          'smollm2-135m',
        )
        .addOption(
          numbers(
            '--in-flight <list>',
            'throughput: sequences at once, each with its own adapter',
            65536,
            defaults.inFlight,
          ),
        )
        .addOption(
          valued('--prompt-tokens <n>', 'throughput: of a sequence', integer({ min: 1 }), 16),
        )
        .addOption(
          valued('--new-tokens <n>', 'throughput: of a sequence', integer({ min: 3 }), 32),
        ),
    run,
  )
}

function check({ rank, widths, layerWidth, batch, adapters, only }: Options): void {
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
}

async function run(options: Options & CommonOptions, out: Output): Promise<void> {
  check(options)
  if (options.device === 'cuda') {
    throw new S2FTError('DEVICE_UNAVAILABLE', 'device cuda: this build has the cpu backend only')
  }
  const dtype = options.dtype === 'auto' ? 'bf16' : options.dtype
  const decided: Decided = { ...options, dtype, threads: options.threads || availableParallelism() }
  const found: object[] = []
  await withScratch(out, async (scratch, signal) => {
    for (const part of serveParts) {
      if (options.only.includes(part)) {
        found.push(...(await parts[part](decided, out, signal, scratch)))
      }
    }
  })
  await printTargets(out, found)
}

type Part = (
  options: Decided,
  out: Output,
  signal: AbortSignal,
  scratch: string,
) => Promise<object[]>

const parts: Record<ServePart, Part> = {
  async switch(options, out, signal) {
    const { runSwitch } = await import('../../bench/serve-switch.js')
    const { rank } = options
    const title = `switch: LoRA of rank ${rank}, S²FT of ${2 * rank} rows or columns`
    return report(
      out,
      options,
      title,
      runSwitch(options, (text) => out.note(text), signal),
      switchTable,
    )
  },
  async layer(options, out, signal) {
    const { runLayer } = await import('../../bench/serve-layer.js')
    const { rank, layerWidth, batch } = options
    const title =
      `layer: width ${layerWidth}, ${batch} requests with adapters of their own; ` +
      `LoRA of rank ${rank}, S²FT of ${2 * rank} rows or columns`
    return report(
      out,
      options,
      title,
      runLayer(options, (text) => out.note(text), signal),
      layerTable,
    )
  },
  async throughput(options, out, signal, scratch) {
    const { runThroughput } = await import('../../bench/serve-throughput.js')
    const { model, dtype, rank } = options
    const shape = await benchShape(model)
    const directory = await benchDirectory(model, shape, dtype, scratch)
    const all = { ...options, name: model, directory, shape }
    const title = `throughput: ${model}, o and down; LoRA of rank ${rank}, S²FT of as many parameters`
    const lines = runThroughput(all, (text) => out.note(text), signal)
    return report(out, options, title, lines, throughputTable)
  },
}

/** Prints lines as they come, and a table of all; what was left out follows. */
async function report<L extends object>(
  out: Output,
  { dtype, threads }: Decided,
  title: string,
  results: AsyncIterable<L[] | ServeSkipped>,
  tableOf: (lines: L[]) => Figures,
): Promise<L[]> {
  const lines: L[] = []
  const skipped: ServeSkipped[] = []
  for await (const result of results) {
    if (Array.isArray(result)) {
      lines.push(...result)
      for (const line of result) out.event(line)
    } else {
      skipped.push(result)
      out.keep(result)
      if (out.json) out.note(skippedText(result))
    }
  }
  out.line(`${title}; ${dtype}, ${threads} threads`)
  const { titles, rows, right } = tableOf(lines)
  if (rows.length > 0) out.line(table(titles, rows, { right }))
  for (const line of skipped) out.line(skippedText(line))
  out.line()
  return lines
}
