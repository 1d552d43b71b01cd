// s2ft bench serve: what serving many adapters takes, against LoRA on the same engine.
import { availableParallelism } from 'node:os'
import type { Command } from 'commander'
import { type ServePart, type ServeSkipped, serveParts } from '../../bench/serve-run.js'
import {
  type Figures,
  layerTable,
  loadTable,
  skippedText,
  switchTable,
  throughputTable,
} from '../../bench/serve-tables.js'
import { shapes } from '../../bench/shapes.js'
import { S2FTError } from '../../errors.js'
import { makeBenchCommand } from '../bench-command.js'
import { benchDirectory, benchShape } from '../bench-model.js'
import { withScratch } from '../bench-run.js'
import {
  addServeOptions,
  checkServeOptions,
  type ServeBenchOptions,
} from '../bench-serve-options.js'
import type { CommonOptions } from '../common.js'
import type { Output } from '../output.js'
import { table } from '../table.js'
import { printTargets } from '../targets.js'

/** What is decided before anything runs. */
type Decided = ServeBenchOptions &
  Pick<CommonOptions, 'arithmetic' | 'device'> & { dtype: 'bf16' | 'f32'; threads: number }

export function benchServeCommand(): Command {
  return makeBenchCommand<ServeBenchOptions>(
    'serve',
    'Measures what serving many adapters takes, S²FT against LoRA of as many parameters on the ' +
      'same engine: exchanging the adapter in a weight, a layer with thousands of resident ' +
      'adapters, and decoding with many in flight; then the server under load. Cases run in ' +
      'fresh processes; those that memory does not suffice for are left out. --dtype auto is ' +
      'bf16. Prints one JSON object a case with --json.',
    addServeOptions,
    run,
  )
}

async function run(
  options: ServeBenchOptions & CommonOptions,
  out: Output,
  command: Command,
): Promise<void> {
  const given = Object.keys(options).filter((key) => command.getOptionValueSource(key) === 'cli')
  checkServeOptions(options, given)
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

/** A part's lines as they come, what they are called, and their table. */
interface Running<L> {
  title: string
  results: AsyncIterable<L[] | ServeSkipped>
  tableOf: (lines: L[]) => Figures
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
    const results = runSwitch(options, (text) => out.note(text), signal)
    return report(out, options, { title, results, tableOf: switchTable })
  },
  async layer(options, out, signal) {
    const { runLayer } = await import('../../bench/serve-layer.js')
    const { rank, layerWidth, batch } = options
    const title =
      `layer: width ${layerWidth}, ${batch} requests with adapters of their own; ` +
      `LoRA of rank ${rank}, S²FT of ${2 * rank} rows or columns`
    const results = runLayer(options, (text) => out.note(text), signal)
    return report(out, options, { title, results, tableOf: layerTable })
  },
  async throughput(options, out, signal, scratch) {
    const { runThroughput } = await import('../../bench/serve-throughput.js')
    const { model, dtype, rank } = options
    const shape = await benchShape(model)
    const directory = await benchDirectory(model, shape, dtype, scratch)
    const all = { ...options, name: model, directory, shape }
    const title = `throughput: ${model}, o and down; LoRA of rank ${rank}, S²FT of as many parameters`
    const results = runThroughput(all, (text) => out.note(text), signal)
    return report(out, options, { title, results, tableOf: throughputTable })
  },
  async load(options, out, signal, scratch) {
    const { runLoad } = await import('../../bench/serve-load.js')
    const { model } = options
    if (Object.hasOwn(shapes, model)) {
      out.note(`load: left out: expected --model DIR with a tokenizer, found ${model}`)
      return []
    }
    await benchShape(model)
    const results = runLoad({ ...options, scratch }, (text) => out.note(text), signal)
    return report(out, options, { title: `load: ${model}`, results, tableOf: loadTable })
  },
}

/** Prints lines as they come, and a table of all; what was left out follows. */
async function report<L extends object>(
  out: Output,
  { dtype, threads }: Decided,
  { title, results, tableOf }: Running<L>,
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
