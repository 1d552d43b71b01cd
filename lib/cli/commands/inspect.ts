// s2ft inspect: explains a directory: model, adapter, checkpoint or training output.
import type { Command } from 'commander'
import { grouped } from '../../report/format.js'
import { makeCommand } from '../common.js'
import { table } from '../table.js'

interface Options {
  dir: string
}

export function inspectCommand(): Command {
  return makeCommand<Options>(
    'inspect',
    'Explains a directory: a model, an S²FT or LoRA adapter, a checkpoint, or the output of train.',
    (command) => command.argument('<dir>', 'directory to explain'),
    async ({ dir }, out) => {
      const { inspectDirectory } = await import('../inspect-directory.js')
      const found = await inspectDirectory(dir)
      for (const part of found) {
        out.event(part)
        out.line(`${part.type}  ${part.path}`)
        for (const [key, value] of Object.entries(part)) {
          if (key === 'type' || key === 'path' || Array.isArray(value)) continue
          out.line(`  ${key.padEnd(18)} ${typeof value === 'number' ? grouped(value) : value}`)
        }
        for (const [key, value] of Object.entries(part)) {
          if (Array.isArray(value) && value.length > 0) out.line(`\n${listing(key, value)}`)
        }
        out.line()
      }
    },
  )
}

function listing(title: string, rows: unknown[]): string {
  if (typeof rows[0] !== 'object') return `  ${title}: ${rows.join(', ')}`
  const items = rows as Record<string, unknown>[]
  const keys = Object.keys(items[0]!)
  const cells = items.map((item) => keys.map((key) => String(item[key])))
  return table(keys, cells, {
    right: keys.flatMap((key, i) => (typeof items[0]![key] === 'number' ? [i] : [])),
  })
}
