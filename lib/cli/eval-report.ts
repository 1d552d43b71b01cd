// Tells the results of an evaluation: one object at the end, or tables.
import { meanInterval } from '../eval/interval.js'
import type { EvalResult, MmluResult } from '../eval/types.js'
import { percent, interval as range } from '../report/format.js'
import type { Output } from './output.js'
import { table } from './table.js'

/** The result of one data file. */
export interface FileResult {
  name: string
  data: string
  seconds: number
  result: EvalResult
}

interface About {
  adapter: string | null
  seconds: number
}

type Measured = Exclude<EvalResult, { task: 'mt-bench' }>

const nats = (value: number) => value.toFixed(4)

/** One file: its result. Several: a `task` object each, then the mean over them. */
export function reportEvaluation(out: Output, found: FileResult[], about: About): void {
  const [only] = found
  if (found.length === 1) {
    out.event({ type: 'result', ...only!.result, data: only!.data, ...about })
    printOne(out, only!.result)
    return
  }
  const measured = found.map(({ result }) => result as Measured)
  const mean = meanInterval(
    measured.map((result) => ({ value: figureOf(result), interval: result.interval })),
  )
  for (const { name, data, seconds, result } of found) {
    out.event({ ...result, type: 'task', name, data, seconds })
  }
  const { task } = measured[0]!
  const loss = task === 'loss'
  out.event({
    type: 'result',
    task,
    [loss ? 'loss' : 'accuracy']: mean.value,
    interval: mean.interval,
    count: measured.reduce((sum, { count }) => sum + count, 0),
    ...(!loss && { correct: measured.reduce((sum, result) => sum + correctOf(result), 0) }),
    tasks: found.length,
    data: found.map(({ data }) => data),
    ...about,
  })
  const show = loss ? nats : percent
  const rows = found.map(({ name }, i) => {
    const result = measured[i]!
    const samples = loss ? `${result.count}` : `${correctOf(result)} of ${result.count}`
    return [name, show(figureOf(result)), range(result.interval, show), samples]
  })
  rows.push(['mean', show(mean.value), range(mean.interval, show), ''])
  const titles = ['task', loss ? 'loss' : 'accuracy', '95% interval', loss ? 'samples' : 'correct']
  out.line(table(titles, rows, { right: [1, 3] }))
}

const figureOf = (result: Measured) => (result.task === 'loss' ? result.loss : result.accuracy)
const correctOf = (result: Measured) => (result.task === 'loss' ? 0 : result.correct)

function printOne(out: Output, result: EvalResult): void {
  switch (result.task) {
    case 'loss': {
      const { loss, interval, perplexity, count, tokens, truncated } = result
      out.line(`loss        ${nats(loss)}  ${range(interval, nats)}`)
      out.line(`perplexity  ${perplexity.toFixed(3)}`)
      out.line(`samples     ${count} (${tokens} scored tokens, ${truncated} samples cut)`)
      return
    }
    case 'mt-bench': {
      const parts = Object.entries(result.categories).map(([name, count]) => `${name} ${count}`)
      out.line(`answered  ${result.count} questions as ${result.modelId}: ${parts.join(', ')}`)
      return
    }
    case 'mmlu':
      out.line(`${subjectTable(result)}\n`)
  }
  const { accuracy, interval, correct, count } = result
  out.line(`accuracy  ${percent(accuracy)}  ${range(interval, percent)}`)
  out.line(`correct   ${correct} of ${count}`)
}

function subjectTable(result: MmluResult): string {
  const rows = result.subjects.map(({ subject, accuracy, interval, correct, count }) => [
    subject,
    percent(accuracy),
    range(interval, percent),
    `${correct} of ${count}`,
  ])
  const { subjectMean, subjectMeanInterval } = result
  rows.push(['mean', percent(subjectMean), range(subjectMeanInterval, percent), ''])
  return table(['subject', 'accuracy', '95% interval', 'correct'], rows, { right: [1, 3] })
}
