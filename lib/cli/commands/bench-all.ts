// s2ft bench all: every benchmark after another into one file, the report, and the targets.
import { spawn } from 'node:child_process'
import { appendFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'
import { type Benchmark, benchmarks } from '../../bench/all-parts.js'
import { S2FTError } from '../../errors.js'
import { duration } from '../../report/format.js'
import { type CommonOptions, makeCommand, valued } from '../common.js'
import { interruptSignal } from '../load.js'
import type { Output } from '../output.js'
import { integer, list, oneOf } from '../parse.js'
import { printRunTargets } from '../targets.js'
import { writeReport } from './bench-report.js'

interface Options {
  model: string
  data: string
  python?: string
  output: string
  rounds: number
  only: Benchmark[]
  quick: boolean
}

function readBenchmarks(text: string): Benchmark[] {
  return list(text).map(oneOf(...benchmarks))
}

export function benchAllCommand(): Command {
  return makeCommand<Options>(
    'all',
    'Runs train, real, ops, memory, growth and serve one after another, each in a process of its ' +
      'own, and writes results.jsonl and report.html; then tells which targets are met. Called again, ' +
      'it goes on with what is not finished. Takes hours with --python, seconds with --quick.',
    (command) =>
      command
        .requiredOption('--model <dir>', 'a model directory with a tokenizer, for real data')
        .requiredOption('--data <file>', 'training data, as for s2ft train')
        .option(
          '--python <path>',
          'Python with torch, transformers and peft: measure the peers too',
        )
        .requiredOption('--output <dir>', 'folder for results.jsonl and report.html')
        .addOption(valued('--rounds <n>', 'processes a case', integer({ min: 1 }), 2))
        .addOption(
          valued('--only <list>', benchmarks.join(', '), readBenchmarks).default(
            [...benchmarks],
            'all',
          ),
        )
        .option('--quick', 'few small steps, to see that all works', false),
    run,
  )
}

async function run(options: Options & CommonOptions, out: Output): Promise<void> {
  const { allParts } = await import('../../bench/all-parts.js')
  const { keepFinished } = await import('../../bench/results-file.js')
  const { readResults } = await import('../../bench/read-results.js')
  const { commandText } = await import('../../bench/run-header.js')
  const { loadPlotting } = await import('../../report/plots.js')
  const { makeDirectory } = await import('../../model/make-directory.js')
  // What would only be missed at the end is asked for now.
  await loadPlotting()
  for (const path of [options.model, options.data]) await mustExist(path)
  await makeDirectory(options.output)
  const results = join(options.output, 'results.jsonl')
  const finished = await keepFinished(results)
  const failed: string[] = []
  const interrupt = interruptSignal(() => out.note('stopping'))
  try {
    for (const part of allParts(options)) {
      const args = ['bench', ...part, ...common(options), '--output', results]
      const command = commandText(args)
      if (finished.has(command)) {
        out.note(`already done: ${command}`)
        continue
      }
      out.note(command)
      const start = performance.now()
      const status = await runPart([...args, ...(out.json ? ['--json'] : [])], interrupt.signal)
      if (interrupt.signal.aborted) {
        throw new S2FTError('CANCELLED', `stopped in ${command}; call again to go on`)
      }
      const seconds = (performance.now() - start) / 1000
      if (status === 0) {
        await appendFile(results, `${JSON.stringify({ type: 'end', command, seconds })}\n`)
        out.note(`took ${duration(seconds)}`)
      } else {
        failed.push(`${command} (exit status ${status})`)
      }
    }
  } finally {
    interrupt.stop()
  }
  const found = await readResults([results])
  const page = join(options.output, 'report.html')
  await writeReport(found, page)
  await printRunTargets(out, found.runs)
  out.line(`\nreport: ${page}`)
  if (failed.length > 0) {
    throw new S2FTError('INTERNAL', `${failed.length} benchmarks failed: ${failed.join('; ')}`)
  }
}

async function mustExist(path: string): Promise<void> {
  await stat(path).catch((cause: Error) => {
    throw new S2FTError('IO', `expected ${path}: ${cause.message}`, { cause })
  })
}

/** The common options that differ from their defaults. */
function common({ threads, device, arithmetic }: CommonOptions): string[] {
  return [
    ...(threads === 0 ? [] : ['--threads', String(threads)]),
    ...(device === 'auto' ? [] : ['--device', device]),
    ...(arithmetic === 'auto' ? [] : ['--arithmetic', arithmetic]),
  ]
}

/**
 * Runs this command line's own program: a benchmark that crashes or is killed for its memory
 * takes no other with it, and what the report shows as its command can be typed.
 */
async function runPart(args: string[], signal: AbortSignal): Promise<number | string> {
  const main = fileURLToPath(new URL('../main.js', import.meta.url))
  // A group of its own: Ctrl-C comes through this process alone, and once.
  const child = spawn(process.execPath, [main, ...args], {
    stdio: ['ignore', 'inherit', 'inherit'],
    detached: true,
  })
  const stop = () => child.kill('SIGTERM')
  process.on('exit', stop)
  signal.addEventListener('abort', stop)
  try {
    return await new Promise((resolve, reject) => {
      child.on('error', reject)
      child.on('close', (code, killed) => resolve(code ?? killed ?? 'unknown'))
    })
  } finally {
    process.off('exit', stop)
    signal.removeEventListener('abort', stop)
  }
}
