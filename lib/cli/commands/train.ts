// s2ft train: from a model and a data file to an adapter, or to a model for methods that change it.
import type { Command } from 'commander'
import type { EncodedDataset, EncodeReport } from '../../data/index.js'
import type { Job } from '../../distributed/job.js'
import type { Model } from '../../model/model.js'
import type { TrainEvent } from '../../trainer/types.js'
import { type CommonOptions, makeCommand } from '../common.js'
import { interruptSignal, loadModel } from '../load.js'
import type { Output } from '../output.js'
import { refuseForeignDirectory } from '../output-directory.js'
import type { TrainSettings } from '../train-options.js'
import { addSettings, trainSettings } from '../train-settings.js'

const DEFAULT_MAX_LENGTH = 1024

/** What mpirun passes on and batch systems send ahead of their time limit. */
const JOB_SIGNALS: NodeJS.Signals[] = ['SIGUSR2']

export function trainCommand(): Command {
  return makeCommand<object>(
    'train',
    'Fine-tunes a model and saves an adapter (full, lisa, galore: a model directory). ' +
      'Ctrl-C finishes the step, writes a checkpoint and says how to resume; again, it ends at once.',
    (command) => {
      command.option('-c, --config <file>', 'YAML file with any of these settings; flags win')
      addSettings(command, trainSettings)
      return command.optionsGroup('Machine and output:')
    },
    async (_, out, command) => {
      // Imported here: help and wrong calls of other commands start faster without.
      const { mergeSettings } = await import('../train-options.js')
      const settings = mergeSettings(command)
      await run(settings, command.opts<CommonOptions>(), out)
    },
  )
}

async function encode(
  model: Model,
  file: string,
  limit: number | undefined,
  settings: TrainSettings,
): Promise<EncodedDataset> {
  const { encodeDataset, loadDataset } = await import('../../data/index.js')
  const dataset = await loadDataset(file, limit === undefined ? {} : { limit })
  return encodeDataset(dataset, await model.tokenizer(), {
    template: settings.template ?? 'auto',
    maxLength: settings.maxLength ?? DEFAULT_MAX_LENGTH,
  })
}

async function run(settings: TrainSettings, common: CommonOptions, out: Output): Promise<void> {
  const { joinJob } = await import('../../index.js')
  const { distributed, distributedTimeout: timeout } = settings
  const job = await joinJob({ ...(distributed && { distributed }), ...(timeout && { timeout }) })
  if (!job) return await train(settings, common, out)
  if (job.rank > 0) out.mute()
  else describeJob(job, out)
  try {
    await train(settings, { ...common, threads: common.threads || job.threads }, out, job)
    await job.finish()
  } catch (error) {
    await job.fail(error instanceof Error ? error.message : String(error))
    throw error
  }
}

function describeJob(job: Job, out: Output): void {
  const { boundCpus, hostCpus, hostSize } = job.native
  out.line(`ranks          ${job.size} over ${job.library}, ${job.threads} threads each`)
  if (boundCpus >= hostCpus) return
  out.note(
    `warning: the launcher lets the ${hostSize} ranks of this host use ${boundCpus} of its ` +
      `${hostCpus} CPUs: mpirun --bind-to none gives them all`,
  )
}

async function train(
  settings: TrainSettings,
  common: CommonOptions,
  out: Output,
  job?: Job,
): Promise<void> {
  const { methodOf, trainerOptions } = await import('../train-options.js')
  const { TrainReport } = await import('../train-report.js')
  const { avoidedAdapters } = await import('../selection-options.js')
  const method = methodOf(settings, await avoidedAdapters(settings))
  const resume = settings.resume ?? false
  // Of several ranks the first one writes.
  if (!job?.rank)
    await refuseForeignDirectory(settings.output, settings.overwriteOutputDir === true)
  const { Trainer } = await import('../../index.js')
  const { model: directory, quantize } = settings
  await using model = await loadModel({ ...common, model: directory, quantize })
  const report = new TrainReport(out, settings, model)
  const training = await encode(model, settings.data, settings.maxSamples, settings)
  report.data('training', settings.data, training.report)
  let evaluation: { samples: EncodedDataset['samples']; report: EncodeReport } | undefined
  if (settings.evalData !== undefined) {
    evaluation = await encode(model, settings.evalData, settings.evalSamples, settings)
    report.data('evaluation', settings.evalData, evaluation.report)
  }
  await using trainer = new Trainer(model, {
    ...trainerOptions(settings, method),
    ...(evaluation && { evalDataset: evaluation.samples }),
    job,
  })
  const interrupt = interruptSignal(() => report.stopping(), job ? JOB_SIGNALS : [])
  let last: TrainEvent | undefined
  try {
    const allowDifferentMachine = settings.allowDifferentMachine ?? false
    const options = { signal: interrupt.signal, resume, allowDifferentMachine }
    for await (const event of trainer.fit(training.samples, options)) {
      report.event(event)
      last = event
    }
  } finally {
    report.close()
    interrupt.stop()
  }
  if (last?.type === 'interrupted') process.exitCode = interrupt.status
}
