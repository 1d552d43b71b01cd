// s2ft merge: base and adapter become one Hugging Face directory.
import type { Command } from 'commander'
import { bytes } from '../../report/format.js'
import { makeCommand } from '../common.js'

interface MergeOptions {
  model: string
  adapter: string
  output: string
  maxShardSize: string
  force: boolean
  overwriteOutputDir: boolean
}

export function mergeCommand(): Command {
  return makeCommand<MergeOptions>(
    'merge',
    'Writes the base model with an adapter fused into it as a Hugging Face directory. ' +
      'Weights that the adapter does not touch are byte-identical to the base.',
    (command) =>
      command
        .requiredOption('--model <dir>', 'base model: a Hugging Face directory')
        .requiredOption(
          '--adapter <dir>',
          "S²FT or sparse adapter, or LoRA or DoRA in PEFT's format",
        )
        .requiredOption('-o, --output <dir>', 'directory to write')
        .option('--max-shard-size <size>', 'largest weight file, e.g. 500MB', '5GB')
        .option('--force', 'fuse although the adapter was trained on another base', false)
        .option('--overwrite-output-dir', 'write into a directory that is not empty', false),
    async (options, out) => {
      const { Adapter, Model } = await import('../../index.js')
      const { refuseLoreft } = await import('../../adapter/loreft-format.js')
      const { device, dtype, threads, arithmetic, output } = options
      const adapter = await Adapter.load(options.adapter)
      if (adapter.info.type === 'loreft') refuseLoreft('merge')
      await using model = await Model.load(options.model, { device, dtype, threads, arithmetic })
      await model.fuse(adapter, { force: options.force })
      await model.save(output, {
        maxShardSize: options.maxShardSize,
        overwrite: options.overwriteOutputDir,
      })
      out.event({ type: 'merged', path: output, bytes: model.bytes })
      out.line(`merged model written to ${output} (${bytes(model.bytes)} of weights)`)
    },
  )
}
