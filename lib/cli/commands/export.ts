// s2ft export: an adapter in a format that other software reads.
import type { Command } from 'commander'
import { S2FTError } from '../../errors.js'
import { makeCommand, valued } from '../common.js'
import { oneOf } from '../parse.js'

interface ExportOptions {
  model: string
  adapter: string
  output: string
  format: 'peft' | 'gguf'
}

export function exportCommand(): Command {
  return makeCommand<ExportOptions>(
    'export',
    'Writes an adapter in a format that other software reads. ' +
      'peft: an S²FT slice of s channels is exactly a LoRA of rank s with one one-hot factor.',
    (command) =>
      command
        .requiredOption('--model <dir>', 'base model: a Hugging Face directory')
        .requiredOption('--adapter <dir>', 'S²FT, LoRA or DoRA adapter')
        .requiredOption('-o, --output <dir>', 'directory to write')
        .addOption(
          valued(
            '--format <name>',
            'peft; gguf comes in a later release',
            oneOf('peft', 'gguf'),
            'peft',
          ),
        ),
    async (options, out) => {
      if (options.format === 'gguf') {
        throw new S2FTError(
          'UNSUPPORTED',
          "--format gguf comes in a later release: use --format peft, or s2ft merge and llama.cpp's converter",
        )
      }
      const { exportPeft } = await import('../export-peft.js')
      const { modules, rank } = await exportPeft(options)
      out.event({ type: 'exported', format: options.format, path: options.output, modules, rank })
      out.line(`LoRA adapter in PEFT's format written to ${options.output}`)
      out.line(`${modules} modules, rank up to ${rank}`)
    },
  )
}
