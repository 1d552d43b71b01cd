// s2ft bench report: draws files of benchmark results as one HTML page.
import type { Command } from 'commander'
import { problemText } from '../../bench/report.js'
import { type CommonOptions, makeCommand } from '../common.js'
import type { Output } from '../output.js'

interface Options {
  files: string[]
  output: string
}

export function benchReportCommand(): Command {
  return makeCommand<Options>(
    'report',
    "Draws what the benchmarks' --output files hold as one HTML page with tables and plots that " +
      'opens without a net. Needs the packages vega and vega-lite.',
    (command) =>
      command
        .argument('<files...>', 'JSON lines of s2ft bench')
        .requiredOption('--output <file>', 'the page to write'),
    run,
  )
}

async function run({ files, output }: Options & CommonOptions, out: Output): Promise<void> {
  const { readResults } = await import('../../bench/read-results.js')
  const results = await readResults(files)
  for (const problem of results.problems) out.note(`not read: ${problemText(problem)}`)
  const lines = results.runs.reduce((sum, found) => sum + found.lines.length, 0)
  await writeReport(results, output)
  out.event({ output, runs: results.runs.length, lines, problems: results.problems })
  out.line(`${output}: ${results.runs.length} runs, ${lines} lines`)
}

/** Writes the page whole or not at all. Throws UNSUPPORTED without the plotting library, IO. */
export async function writeReport(
  results: import('../../bench/read-results.js').Results,
  output: string,
): Promise<void> {
  const { benchmarkPage } = await import('../../bench/report.js')
  const { renderPage } = await import('../../report/html.js')
  const { writeWhole } = await import('../../report/write.js')
  await writeWhole(output, await renderPage(benchmarkPage(results)))
}
