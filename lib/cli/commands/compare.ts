// s2ft compare: the difference between two evaluations of the same data, sample by sample.
import type { Command } from 'commander'
import type { Comparison } from '../../eval/compare.js'
import { interval as range } from '../../report/format.js'
import { makeCommand } from '../common.js'
import type { Output } from '../output.js'
import { table } from '../table.js'

interface Options {
  a: string
  b: string
}

export function compareCommand(): Command {
  return makeCommand<Options>(
    'compare',
    'Compares two files of s2ft eval --output, B against A, on the samples that both hold: ' +
      "differences with paired 95% intervals and McNemar's exact test.",
    (command) =>
      command.argument('<a>', 'results of one evaluation').argument('<b>', 'results of another'),
    async ({ a, b }, out) => {
      const { compareResults } = await import('../../eval/compare.js')
      const { tasks, mean, unpaired } = compareResults(a, b)
      if (unpaired.length > 0) out.note(`not in both files: ${unpaired.join(', ')}`)
      for (const task of tasks) out.event({ type: 'task', ...task })
      const count = tasks.reduce((sum, task) => sum + task.count, 0)
      const { value: difference, interval } = mean
      out.event({
        type: 'result',
        a,
        b,
        difference,
        interval,
        tasks: tasks.length,
        count,
        unpaired,
      })
      print(out, tasks, mean.value, mean.interval)
    },
  )
}

const points = (value: number) => `${value < 0 ? '' : '+'}${(100 * value).toFixed(1)}`
const nats = (value: number) => `${value < 0 ? '' : '+'}${value.toFixed(4)}`

function print(
  out: Output,
  tasks: readonly Comparison[],
  mean: number,
  interval: [number, number],
): void {
  const rows = tasks.map((task) => {
    if (task.measure === 'loss') {
      const { a, b, difference, count } = task
      const losses = [a.toFixed(4), b.toFixed(4)]
      return [task.task, ...losses, nats(difference), range(task.interval, nats), '', `${count}`]
    }
    const { a, b, difference, onlyA, onlyB, p, count } = task
    const test = `${p < 0.001 ? '< 0.001' : p.toFixed(3)} (${onlyB} : ${onlyA})`
    const shares = [a, b].map((share) => (100 * share).toFixed(1))
    return [
      task.task,
      ...shares,
      points(difference),
      range(task.interval, points),
      test,
      `${count}`,
    ]
  })
  if (tasks.length > 1 && tasks.every(({ measure }) => measure === tasks[0]!.measure)) {
    const show = tasks[0]!.measure === 'loss' ? nats : points
    rows.push(['mean', '', '', show(mean), range(interval, show), '', ''])
  }
  const titles = ['task', 'A', 'B', 'B - A', '95% interval', 'p (B : A)', 'samples']
  out.line(table(titles, rows, { right: [1, 2, 3, 6] }))
}
