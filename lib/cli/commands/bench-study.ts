// s2ft bench study: every method and choice of the paper, trained and measured side by side.
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Command } from 'commander'
import { S2FTError } from '../../errors.js'
import { duration } from '../../report/format.js'
import { parts } from '../../study/plan.js'
import { type Preset, presets } from '../../study/settings.js'
import { type Track, tracks } from '../../study/tracks.js'
import { type CommonOptions, makeCommand, valued } from '../common.js'
import { interruptSignal } from '../load.js'
import type { Output } from '../output.js'
import { integer, listOf, number, oneOf } from '../parse.js'

interface Options {
  model: string
  data: string
  output: string
  only: (typeof parts)[number][]
  tracks: Track[]
  seeds: number
  preset: Preset
  quick: boolean
  minutes?: number
}

export function benchStudyCommand(): Command {
  return makeCommand<Options>(
    'study',
    "Trains a model by every method, with several seeds and each method's own best learning rate, " +
      'and measures it in and out of distribution; then selections, allocations, components, ' +
      'seeds and fused adapters. Writes results.jsonl, report.html and study.md, and goes on ' +
      'where it was stopped. Needs the packages vega, vega-lite and jstat.',
    (command) =>
      command
        .requiredOption('--model <dir>', 'a model directory with a tokenizer')
        .requiredOption('--data <dir>', 'folder with math, commonsense, mmlu and text')
        .requiredOption('--output <dir>', 'folder for results, reports and adapters')
        .addOption(
          valued('--only <list>', parts.join(', '), listOf(...parts)).default([...parts], 'all'),
        )
        .addOption(
          valued('--tracks <list>', tracks.join(', '), listOf(...tracks)).default(
            [...tracks],
            'both; fusion needs both',
          ),
        )
        .addOption(valued('--seeds <n>', 'runs of each variant', integer({ min: 1, max: 100 }), 3))
        .addOption(
          valued(
            '--preset <name>',
            'cpu: subsets, some hours on two cores; full: whole training and test sets; quick: ' +
              'few small steps, to see that all works',
            oneOf(...presets),
            'cpu',
          ),
        )
        .option('--quick', 'the same as --preset quick', false)
        .addOption(
          valued('--minutes <n>', 'begin no case that would end later', number({ above: 0 })),
        ),
    run,
  )
}

async function mustBe(path: string, what: string): Promise<void> {
  await stat(path).catch((cause: Error) => {
    throw new S2FTError('IO', `expected ${what} at ${path}: ${cause.message}`, { cause })
  })
}

/** Quantiles come from a package that s2ft leaves to those who want the study. */
async function requireStatistics(): Promise<void> {
  await import('jstat').catch((cause: NodeJS.ErrnoException) => {
    if (cause.code !== 'ERR_MODULE_NOT_FOUND') throw cause
    throw new S2FTError(
      'UNSUPPORTED',
      'the study needs a package that s2ft leaves to those who want it: npm install jstat',
      { cause },
    )
  })
}

async function run(options: Options & CommonOptions, out: Output): Promise<void> {
  const { loadPlotting } = await import('../../report/plots.js')
  const { makeDirectory } = await import('../../model/make-directory.js')
  const { studyFiles } = await import('../../study/data.js')
  const { studySettings } = await import('../../study/settings.js')
  const { StudyStore } = await import('../../study/store.js')
  // What would only be missed at the end is asked for now.
  await requireStatistics()
  await loadPlotting()
  for (const file of studyFiles(options.data)) await mustBe(file, 'data of the study')
  await makeDirectory(options.output)
  const settings = studySettings(options.quick ? 'quick' : options.preset)
  const store = await StudyStore.open(join(options.output, 'results.jsonl'))
  const interrupt = interruptSignal(() => out.note('stopping; call again to go on'))
  let outcome: import('../../study/run.js').Outcome
  try {
    const measure = await prepare(options, settings, store, out, interrupt.signal)
    try {
      outcome = await measure()
    } finally {
      await writeReports(options, store, out)
    }
  } catch (error) {
    const cancelled = error instanceof S2FTError && error.code === 'CANCELLED'
    if (!cancelled || !interrupt.signal.aborted) throw error
    out.event({ type: 'interrupted', output: options.output })
    process.exitCode = interrupt.status
    return
  } finally {
    interrupt.stop()
  }
  const { done, left, secondsLeft, failed } = outcome
  out.event({ type: 'progress', done, left, secondsLeft: Math.round(secondsLeft) })
  if (left > 0) {
    out.note(`${done} cases done, at least ${left} left (${duration(secondsLeft)}): call again`)
  }
  if (failed.length > 0) {
    const { failureTexts } = await import('../../study/lines.js')
    const reasons = failureTexts(failed).join('; ')
    throw new S2FTError('INTERNAL', `${failed.length} cases failed: ${reasons}`)
  }
}

/** Loads the data and checks that the results are of the same study; the answer runs its cases. */
async function prepare(
  options: Options & CommonOptions,
  settings: import('../../study/settings.js').StudySettings,
  store: import('../../study/store.js').StudyStore,
  out: Output,
  signal: AbortSignal,
): Promise<() => Promise<import('../../study/run.js').Outcome>> {
  const { Model } = await import('../../index.js')
  const { runHeader } = await import('../../bench/run-header.js')
  const { loadStudyData } = await import('../../study/data.js')
  const { describeStudy } = await import('../../study/describe.js')
  const { runCase } = await import('../../study/run-case.js')
  const { runStudy } = await import('../../study/run.js')
  const { device, dtype, threads, arithmetic, seeds, only, tracks, minutes } = options
  const load = () => Model.load(options.model, { device, dtype, threads, arithmetic })
  const started = performance.now()
  let data: Awaited<ReturnType<typeof loadStudyData>>
  {
    await using model = await load()
    data = await loadStudyData(options.data, await model.tokenizer(), settings)
    store.require(await describeStudy(model, data, settings))
  }
  const header = await runHeader(commandWords(options), threads)
  const adapters = join(options.output, 'adapters')
  const context = { settings, data, load, adapters, signal }
  const spent = (performance.now() - started) / 1000
  let first = true
  return () =>
    runStudy({
      ...{ settings, seeds, only, tracks, store, signal },
      seconds: minutes === undefined ? undefined : 60 * minutes - spent,
      run: (spec) => {
        // A call that computes nothing leaves no trace.
        if (first) store.add(header)
        first = false
        return runCase(spec, context)
      },
      onCase: ({ part }, line) => {
        out.event({ part, ...line })
        if (line.type === 'failure') out.note(`${line.key}: failed: [${line.code}] ${line.message}`)
        else out.note(`${line.key}: ${line.seconds.toFixed(1)} s`)
      },
    })
}

/** The command as one would type it to get all of these results again. */
function commandWords(options: Options & CommonOptions): string[] {
  const { model, data, output, seeds, preset, quick, only, device, dtype } = options
  return [
    ...['bench', 'study', '--model', model, '--data', data, '--output', output],
    ...(only.length === parts.length ? [] : ['--only', only.join(',')]),
    ...(options.tracks.length === tracks.length ? [] : ['--tracks', options.tracks.join(',')]),
    ...['--seeds', String(seeds), '--preset', quick ? 'quick' : preset],
    ...(device === 'auto' ? [] : ['--device', device]),
    ...(dtype === 'auto' ? [] : ['--dtype', dtype]),
  ]
}

async function writeReports(
  { output, seeds }: Options,
  store: import('../../study/store.js').StudyStore,
  out: Output,
): Promise<void> {
  const { studyPage } = await import('../../study/report.js')
  const { renderPage } = await import('../../report/html.js')
  const { renderMarkdown } = await import('../../report/markdown.js')
  const { writeWhole } = await import('../../report/write.js')
  const page = await studyPage(store, seeds)
  const html = join(output, 'report.html')
  const markdown = join(output, 'study.md')
  await writeWhole(html, await renderPage(page))
  await writeWhole(markdown, renderMarkdown(page))
  out.line(`report: ${html}, ${markdown}`)
}
