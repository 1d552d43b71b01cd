// Compares two results files sample by sample.
import { S2FTError } from '../errors.js'
import { show } from '../model/validate.js'
import { type Estimate, meanInterval } from './interval.js'
import { mcnemar, type PairedAnswers, pairedDifference, pairedLoss } from './paired.js'
import { readResults } from './results-file.js'
import { taskNames } from './task-names.js'

type Line = Record<string, unknown>

/** Means of A and of B, and what B is above A. */
interface Difference {
  task: string
  count: number
  a: number
  b: number
  difference: number
  interval: [number, number]
}

export interface AccuracyComparison extends Difference, PairedAnswers {
  measure: 'accuracy'
  /** McNemar's exact test. */
  p: number
}

export interface LossComparison extends Difference {
  measure: 'loss'
}

export type Comparison = AccuracyComparison | LossComparison

function isLoss({ lossSum, tokens }: Line): boolean {
  return Number.isFinite(lossSum) && Number.isInteger(tokens) && (tokens as number) > 0
}

/** Samples by task, and by place in the task's file. Throws IO, INVALID_DATA. */
function readTasks(file: string): Map<string, Map<number, Line>> {
  const byData = new Map<string, Map<number, Line>>()
  for (const [i, line] of readResults(file).lines.entries()) {
    const { data, index } = line
    const measured = typeof line.correct === 'boolean' || isLoss(line)
    if (typeof data !== 'string' || !Number.isInteger(index) || !measured) {
      throw new S2FTError(
        'INVALID_DATA',
        `${file}:${i + 1}: expected a sample of s2ft eval --output with correct, or with lossSum and tokens, found ${show(line)}`,
      )
    }
    const samples = byData.get(data) ?? new Map<number, Line>()
    if (samples.has(index as number)) {
      throw new S2FTError(
        'INVALID_DATA',
        `${file}:${i + 1}: sample ${index} of ${data} is there twice`,
      )
    }
    byData.set(data, samples.set(index as number, line))
  }
  const names = taskNames([...byData.keys()])
  return new Map([...byData.values()].map((samples, i) => [names[i]!, samples]))
}

/** Samples with the same place. Throws INVALID_DATA when one side has others, or other answers. */
function pairsOf(
  task: string,
  [fileA, a]: [string, Map<number, Line>],
  [fileB, b]: [string, Map<number, Line>],
): [Line, Line][] {
  const lone = (here: Map<number, Line>, there: Map<number, Line>) =>
    [...here.keys()].find((index) => !there.has(index))
  const onlyA = lone(a, b)
  const onlyB = lone(b, a)
  if (onlyA !== undefined || onlyB !== undefined) {
    const [has, lacks] = onlyA === undefined ? [fileB, fileA] : [fileA, fileB]
    throw new S2FTError(
      'INVALID_DATA',
      `${task}: expected the same samples on both sides: ${has} has sample ${onlyA ?? onlyB}, ${lacks} has not`,
    )
  }
  return [...a].map(([index, one]) => {
    const other = b.get(index)!
    for (const key of ['expected', 'tokens'] as const) {
      if (one[key] === other[key]) continue
      throw new S2FTError(
        'INVALID_DATA',
        `${task}: sample ${index}: expected the same data on both sides, found ${key} ` +
          `${show(one[key])} in ${fileA} and ${show(other[key])} in ${fileB}`,
      )
    }
    return [one, other]
  })
}

function compareAnswers(task: string, pairs: readonly [Line, Line][]): AccuracyComparison {
  const count = (a: boolean, b: boolean) =>
    pairs.filter(([one, other]) => one.correct === a && other.correct === b).length
  const answers = {
    both: count(true, true),
    onlyA: count(true, false),
    onlyB: count(false, true),
    neither: count(false, false),
  }
  return { measure: 'accuracy', task, ...accuracies(answers) }
}

function accuracies(answers: PairedAnswers) {
  const { both, onlyA, onlyB, neither } = answers
  const count = both + onlyA + onlyB + neither
  const { value, interval } = pairedDifference(answers)
  const [a, b] = [(both + onlyA) / count, (both + onlyB) / count]
  return { count, a, b, difference: value, interval, ...answers, p: mcnemar(answers) }
}

function compareLosses(task: string, pairs: readonly [Line, Line][]): LossComparison {
  const samples = pairs.map(([one, other]) => ({
    lossA: one.lossSum as number,
    lossB: other.lossSum as number,
    tokens: one.tokens as number,
  }))
  const { value, interval } = pairedLoss(samples)
  const tokens = samples.reduce((sum, sample) => sum + sample.tokens, 0)
  const a = samples.reduce((sum, { lossA }) => sum + lossA, 0) / tokens
  const b = samples.reduce((sum, { lossB }) => sum + lossB, 0) / tokens
  return { measure: 'loss', task, count: pairs.length, a, b, difference: value, interval }
}

export interface ComparedFiles {
  tasks: Comparison[]
  /** Mean of the tasks' differences, B - A. */
  mean: Estimate
  /** Tasks that one side alone has. */
  unpaired: string[]
}

/**
 * Compares the tasks that both files have, B against A.
 * Throws IO, INVALID_DATA: no common task, other samples, or other data.
 */
export function compareResults(fileA: string, fileB: string): ComparedFiles {
  const [a, b] = [readTasks(fileA), readTasks(fileB)]
  const names = [...a.keys()].filter((name) => b.has(name))
  if (names.length === 0) {
    const found = [a, b].map((tasks) => [...tasks.keys()].join(', ') || 'none').join(' and ')
    throw new S2FTError(
      'INVALID_DATA',
      `${fileA}, ${fileB}: expected a common task, found ${found}`,
    )
  }
  const tasks = names.map((name) => {
    const pairs = pairsOf(name, [fileA, a.get(name)!], [fileB, b.get(name)!])
    const answers = pairs.every((pair) => pair.every(({ correct }) => correct !== undefined))
    const losses = pairs.every((pair) => pair.every(({ correct }) => correct === undefined))
    if (!answers && !losses) {
      throw new S2FTError(
        'INVALID_DATA',
        `${name}: expected accuracy or loss on both sides, found both`,
      )
    }
    return answers ? compareAnswers(name, pairs) : compareLosses(name, pairs)
  })
  const mean = meanInterval(tasks.map(({ difference: value, interval }) => ({ value, interval })))
  const unpaired = [...a.keys(), ...b.keys()].filter((name) => !names.includes(name))
  return { tasks, mean, unpaired }
}
