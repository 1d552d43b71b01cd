// s2ft data: looks at data files; no model is needed.
import { Command } from 'commander'
import { NEAR } from '../../data/overlap.js'
import { percent } from '../../report/format.js'
import { makeCommand, packageVersion, valued } from '../common.js'
import { integer, number } from '../parse.js'
import { table } from '../table.js'

interface Options {
  train: string
  tests: string[]
  threshold: number
  show: number
}

function overlapCommand(): Command {
  return makeCommand<Options>(
    'overlap',
    'Counts the questions of test files that a training file holds too: word for word, or nearly ' +
      '(Jaccard similarity of runs of three words).',
    (command) =>
      command
        .argument('<train>', 'training data')
        .argument('<tests...>', 'test data, one file or more')
        .addOption(
          valued(
            '--threshold <share>',
            'similarity from which questions count as near duplicates',
            number({ above: 0, max: 1 }),
            NEAR,
          ),
        )
        .addOption(valued('--show <n>', 'pairs shown of each file', integer({ min: 0 }), 3)),
    async ({ train, tests, threshold, show }, out) => {
      const { loadDataset } = await import('../../data/index.js')
      const { QuestionIndex } = await import('../../data/overlap.js')
      const dataset = await loadDataset(train)
      const index = new QuestionIndex(dataset)
      const rows: string[][] = []
      const total = { rows: 0, exact: 0, near: 0 }
      for (const test of tests) {
        const { rows: asked } = await loadDataset(test)
        const found = asked.flatMap((row) => index.find(row, threshold) ?? [])
        found.sort((a, b) => b.similarity - a.similarity)
        const exact = found.filter((match) => match.exact).length
        const near = found.length - exact
        for (const match of found.slice(0, show)) {
          out.event({ type: 'match', ...match })
          out.line(`${match.source}  ${match.other}  ${match.similarity.toFixed(2)}`)
        }
        const share = found.length / asked.length
        out.event({ type: 'overlap', train, test, rows: asked.length, exact, near, share })
        rows.push([test, `${asked.length}`, `${exact}`, `${near}`, percent(share)])
        total.rows += asked.length
        total.exact += exact
        total.near += near
      }
      out.event({ type: 'result', train, trainRows: dataset.rows.length, threshold, ...total })
      out.line(table(['test', 'rows', 'exact', 'near', 'share'], rows, { right: [1, 2, 3, 4] }))
    },
  )
}

export function dataCommand(): Command {
  const data = new Command('data').description(
    'Data files: questions that two of them share (overlap).',
  )
  data.helpOption('-h, --help', 'print this help').helpCommand(false)
  data.version(packageVersion(), '-V, --version', 'print the version')
  data.addCommand(overlapCommand())
  return data
}
