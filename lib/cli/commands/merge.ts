// s2ft merge: base and adapter become one Hugging Face directory.
import type { Command } from 'commander'
import { bytes } from '../../report/format.js'
import { makeCommand, valued } from '../common.js'
import { loadModel } from '../load.js'
import { type AdapterChoice, adapters } from '../parse.js'

interface MergeOptions {
  model: string
  adapter: AdapterChoice[]
  output: string
  maxShardSize: string
  force: boolean
  overwriteOutputDir: boolean
}

export function mergeCommand(): Command {
  return makeCommand<MergeOptions>(
    'merge',
    'Writes the base model with adapters fused into it as a Hugging Face directory. ' +
      'Weights that no adapter touches are byte-identical to the base.',
    (command) =>
      command
        .requiredOption('--model <dir>', 'base model: a Hugging Face directory')
        .addOption(
          valued(
            '--adapter <dir>',
            "S²FT or sparse adapter, or LoRA or DoRA in PEFT's format; or <dir>=<weight>; repeatable",
            adapters,
          ).makeOptionMandatory(),
        )
        .requiredOption('-o, --output <dir>', 'directory to write')
        .option('--max-shard-size <size>', 'largest weight file, e.g. 500MB', '5GB')
        .option('--force', 'fuse although the adapter was trained on another base', false)
        .option('--overwrite-output-dir', 'write into a directory that is not empty', false),
    async (options, out) => {
      const { output } = options
      const { Adapter } = await import('../../index.js')
      const { refuseLoreft } = await import('../../adapter/loreft-format.js')
      for (const { directory } of options.adapter) {
        if ((await Adapter.load(directory)).info.type === 'loreft') refuseLoreft('merge')
      }
      await using model = await loadModel(options)
      await model.save(output, {
        maxShardSize: options.maxShardSize,
        overwrite: options.overwriteOutputDir,
      })
      out.event({ type: 'merged', path: output, bytes: model.bytes })
      out.line(`merged model written to ${output} (${bytes(model.bytes)} of weights)`)
    },
  )
}
