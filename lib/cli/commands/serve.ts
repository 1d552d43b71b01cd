// s2ft serve: listed so that its name is known; comes with a later release.
import type { Command } from 'commander'
import { S2FTError } from '../../errors.js'
import { makeCommand, valued } from '../common.js'
import { collect, integer } from '../parse.js'

export function serveCommand(): Command {
  return makeCommand(
    'serve',
    'Serves many adapters over one base model by HTTP (not in this release: comes later).',
    (command) =>
      command
        .requiredOption('--model <dir>', 'base model: a Hugging Face directory')
        .addOption(valued('--adapter <name=dir>', 'an adapter to serve, repeatable', collect))
        .addOption(valued('--port <n>', 'port to listen on', integer({ min: 0, max: 65535 }), 8080))
        .option('--api-key <key>', 'key that requests must carry')
        .option('--adapter-root <dir>', 'directory that adapters may be loaded from'),
    async () => {
      throw new S2FTError(
        'UNSUPPORTED',
        's2ft serve comes in a later release: use s2ft generate, or s2ft merge and any server',
      )
    },
  )
}
