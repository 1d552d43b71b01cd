// s2ft inspect: explains a directory: model, adapter, checkpoint or training output.
import { join } from 'node:path'
import type { Command } from 'commander'
import { S2FTError } from '../../errors.js'
import { grouped } from '../../report/format.js'
import { makeCommand } from '../common.js'
import { table } from '../table.js'

interface Options {
  dir: string
  other?: string
  plot?: string
}

/** Items of a list that a line of text shows. */
const SHOWN = 8

export function inspectCommand(): Command {
  return makeCommand<Options>(
    'inspect',
    'Explains a directory: a model, an adapter of any kind, a checkpoint, or the output of train; ' +
      'or a GGUF file. Of two adapters it also tells which weights both change.',
    (command) =>
      command
        .argument('<dir>', 'directory or GGUF file to explain')
        .argument('[other]', 'another adapter to compare with')
        .option(
          '--plot <file>',
          'draw the heads and channels of an S²FT adapter as one HTML page; needs the packages ' +
            'vega and vega-lite',
        ),
    async ({ dir, other, plot }, out) => {
      const { inspectDirectory, inspectOverlap } = await import('../inspect-directory.js')
      const found = await inspectDirectory(dir)
      if (other !== undefined) {
        found.push(...(await inspectDirectory(other)), await inspectOverlap(dir, other))
      }
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
      if (plot === undefined) return
      await plotSelection(dir, plot)
      out.event({ type: 'plot', path: plot })
      out.line(`drawn  ${plot}`)
    },
  )
}

/** Throws INVALID_ARGUMENT where there is no S²FT adapter. */
async function plotSelection(dir: string, output: string): Promise<void> {
  const { Adapter } = await import('../../adapter/adapter.js')
  const { selectionPage } = await import('../selection-page.js')
  const { existsSync } = await import('node:fs')
  const adapter = existsSync(join(dir, Adapter.files.CONFIG)) ? await Adapter.load(dir) : undefined
  if (adapter?.info.type !== 's2ft') {
    throw new S2FTError(
      'INVALID_ARGUMENT',
      `--plot: expected an S²FT adapter in ${dir}, found ${adapter?.info.type ?? 'none'}`,
    )
  }
  const { renderPage } = await import('../../report/html.js')
  const { writeWhole } = await import('../../report/write.js')
  await writeWhole(output, await renderPage(selectionPage(adapter, adapter.info, dir)))
}

/** A list's beginning and end. */
function shortened(list: readonly unknown[]): string {
  if (list.length <= SHOWN) return list.join(', ')
  return `${list.slice(0, SHOWN - 1).join(', ')} ... ${list.at(-1)}`
}

function listing(title: string, rows: unknown[]): string {
  if (typeof rows[0] !== 'object') return `  ${title}: ${rows.join(', ')}`
  const items = rows as Record<string, unknown>[]
  const keys = Object.keys(items[0]!)
  const cells = items.map((item) =>
    keys.map((key) => {
      const value = item[key]
      return Array.isArray(value) ? shortened(value) : String(value)
    }),
  )
  return table(keys, cells, {
    right: keys.flatMap((key, i) => (typeof items[0]![key] === 'number' ? [i] : [])),
  })
}
