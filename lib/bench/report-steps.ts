// The report's parts on training steps: on random tokens, and on real data.
import { basename } from 'node:path'
import { between, grouped, percent } from '../report/format.js'
import type { Block } from '../report/html.js'
import type { CaseRatio, Line } from './lines.js'
import { caseName, compareBlocks, groupCases, modelName } from './report-cases.js'

type Case = Line<'case'>
type Real = Line<'real'>

/** Share of peak with the range that the speeds have. */
function shareBar({ shareOfPeak, tokensPerSecond, tokensPerSecondRange: [low, high] }: Case) {
  if (shareOfPeak === null) return undefined
  const perToken = shareOfPeak / tokensPerSecond
  return { value: shareOfPeak, range: [perToken * low, perToken * high] as const }
}

function trainGroup(title: string, lines: readonly Case[], ratios: readonly CaseRatio[]): Block[] {
  const { threads, rounds, batch } = lines[0]!
  const peaks = new Map(lines.map((line) => [line.dtype, line.peakGflops]))
  const measured = [...peaks].flatMap(([dtype, peak]) =>
    peak === null ? [] : [`${peak.toFixed(0)} GFLOP/s in ${dtype}`],
  )
  return compareBlocks<Case>({
    title,
    caption: `${title} a step, ${threads} threads, ${rounds} rounds; measured peak ${measured.join(', ') || 'unknown'}`,
    lines,
    ratios: ratios.filter((line) => line.batch === batch),
    label: caseName,
    columns: [
      ['trainable', (line) => grouped(line.trainable)],
      ['tokens/s', (line) => line.tokensPerSecond.toFixed(0)],
      ['range', (line) => between(line.tokensPerSecondRange, (value) => value.toFixed(0))],
      ['GFLOP', (line) => line.gflop.toFixed(line.gflop < 10 ? 2 : 0)],
      ['of peak', (line) => percent(line.shareOfPeak)],
      ['of peak then', (line) => percent(line.shareOfPeakAround)],
    ],
    plots: [
      {
        title: 'Speed',
        description: 'Median tokens per second of each case, with least and most of its steps.',
        axis: 'tokens per second',
        format: ',.0f',
        of: (line) => ({ value: line.tokensPerSecond, range: line.tokensPerSecondRange }),
      },
      {
        title: 'Share of the measured peak',
        description: 'Operations per second of each case relative to the measured peak.',
        axis: 'share of the measured peak',
        format: '.0%',
        of: shareBar,
      },
    ],
  })
}

/** Training on random tokens. */
export function trainBlocks(lines: readonly Case[], ratios: readonly CaseRatio[]): Block[] {
  return groupCases(lines).flatMap((group) => trainGroup(group.title, group.lines, ratios))
}

/** Training on real data: cases of one run have the same model and data. */
export function realBlocks(lines: readonly Real[], ratios: readonly CaseRatio[]): Block[] {
  const [first] = lines
  if (!first) return []
  const { model, data, threads, rounds, samples, tokens, trainedShare } = first
  const title = `${modelName(model)} on ${basename(data)}`
  return compareBlocks<Real>({
    title,
    caption:
      `${title}, ${threads} threads, ${rounds} rounds of ${samples} samples with ` +
      `${(tokens / samples).toFixed(0)} tokens each, ${percent(trainedShare)} of them trained`,
    lines,
    ratios,
    label: (line) => `${caseName(line)}, batch ${line.batch}`,
    columns: [
      ['batch', (line) => String(line.batch)],
      ['trainable', (line) => grouped(line.trainable)],
      ['samples/s', (line) => line.samplesPerSecond.toFixed(2)],
      ['range', (line) => between(line.samplesPerSecondRange)],
      ['tokens/s', (line) => line.tokensPerSecond.toFixed(0)],
      ['padding', (line) => percent(line.padding)],
      ['loss', (line) => `${line.lossFirst.toFixed(3)}-${line.lossLast.toFixed(3)}`],
    ],
    plots: [
      {
        title: 'Speed',
        description: 'Median samples per second of each case, with least and most of its rounds.',
        axis: 'samples per second',
        format: '.2f',
        of: (line) => ({ value: line.samplesPerSecond, range: line.samplesPerSecondRange }),
      },
    ],
  })
}
