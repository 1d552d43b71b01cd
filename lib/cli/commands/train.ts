// s2ft train: from a model and a data file to an adapter, or to a model for methods that change it.
import type { Command } from 'commander'
import type { EncodedDataset, EncodeReport } from '../../data/index.js'
import type { Model } from '../../model/model.js'
import type { TrainEvent } from '../../trainer/types.js'
import { type CommonOptions, makeCommand } from '../common.js'
import { interruptSignal, loadModel } from '../load.js'
import type { Output } from '../output.js'
import { refuseForeignDirectory } from '../output-directory.js'
import type { TrainSettings } from '../train-options.js'
import { addSettings, trainSettings } from '../train-settings.js'

const DEFAULT_MAX_LENGTH = 1024

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
  const { methodOf, trainerOptions } = await import('../train-options.js')
  const { TrainReport } = await import('../train-report.js')
  const { avoidedAdapters } = await import('../selection-options.js')
  const method = methodOf(settings, await avoidedAdapters(settings))
  const resume = settings.resume ?? false
  await refuseForeignDirectory(settings.output, settings.overwriteOutputDir === true)
  const { Trainer } = await import('../../index.js')
  const { model: directory, quantize } = settings
  await using model = await loadModel({ ...common, model: directory, quantize })
  const report = new TrainReport(out, settings, model)
  const train = await encode(model, settings.data, settings.maxSamples, settings)
  report.data('training', settings.data, train.report)
  let evaluation: { samples: EncodedDataset['samples']; report: EncodeReport } | undefined
  if (settings.evalData !== undefined) {
    evaluation = await encode(model, settings.evalData, settings.evalSamples, settings)
    report.data('evaluation', settings.evalData, evaluation.report)
  }
  await using trainer = new Trainer(model, {
    ...trainerOptions(settings, method),
    ...(evaluation && { evalDataset: evaluation.samples }),
  })
  const interrupt = interruptSignal(() => report.stopping())
  let last: TrainEvent | undefined
  try {
    const allowDifferentMachine = settings.allowDifferentMachine ?? false
    const options = { signal: interrupt.signal, resume, allowDifferentMachine }
    for await (const event of trainer.fit(train.samples, options)) {
      report.event(event)
      last = event
    }
  } finally {
    report.close()
    interrupt.stop()
  }
  if (last?.type === 'interrupted') process.exitCode = interrupt.status
}
