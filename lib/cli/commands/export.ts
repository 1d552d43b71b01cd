// s2ft export: an adapter in a format that other software reads.
import type { Command } from 'commander'
import { makeCommand, valued } from '../common.js'
import type { ExportAdapterOptions } from '../export-adapter.js'
import { usage } from '../output.js'
import { integer, oneOf } from '../parse.js'

export function exportCommand(): Command {
  return makeCommand<ExportAdapterOptions>(
    'export',
    'Writes an adapter in a format that other software reads. ' +
      'An S²FT slice of s channels is exactly a LoRA of rank s with one one-hot factor. ' +
      "peft: PEFT's directory, for PEFT, vLLM and mistral.rs; gguf: adapter_model.gguf for llama.cpp's --lora.",
    (command) =>
      command
        .requiredOption('--model <dir>', 'base model: a Hugging Face directory')
        .requiredOption('--adapter <dir>', 'S²FT, LoRA or DoRA adapter')
        .requiredOption('-o, --output <dir>', 'directory to write')
        .addOption(valued('--format <name>', 'peft or gguf', oneOf('peft', 'gguf'), 'peft'))
        .addOption(
          valued(
            '--outtype <type>',
            'gguf: how values are stored, f32 (exact), f16 or bf16',
            oneOf('f32', 'f16', 'bf16'),
            'f32',
          ),
        )
        .addOption(
          valued(
            '--max-rank <n>',
            'refuse to write a larger rank, e.g. the --max-lora-rank of a vLLM server',
            integer({ min: 1 }),
          ),
        ),
    async (options, out) => {
      if (options.format === 'peft' && options.outtype !== 'f32') {
        throw usage("option '--outtype' is for --format gguf")
      }
      const { exportAdapter } = await import('../export-adapter.js')
      const report = await exportAdapter(options)
      out.event({ type: 'exported', format: options.format, path: options.output, ...report })
      const kind =
        options.format === 'gguf' ? 'LoRA adapter in GGUF' : "LoRA adapter in PEFT's format"
      out.line(`${kind} written to ${options.output}`)
      out.line(`${report.modules} modules, rank up to ${report.rank}`)
      for (const note of report.notes) out.note(`note: ${note}`)
    },
  )
}
