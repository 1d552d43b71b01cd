// The results as a page of lib/report: formulas, plots with predictions beside measurements, checks.
import { CONFIDENCE } from './bounds.mjs'

const axes = {
  gap: {
    title: 'The gap between the network and the fine-tuning task',
    axis: 'gap |C|²',
    scale: 'log',
    format: '~g',
  },
  share: {
    title: "The selected channels' share of the gap",
    axis: 'share of |C|² within reach',
    scale: 'linear',
    format: '.0%',
  },
  samples: { title: 'The number of samples', axis: 'samples', scale: 'log', format: '~s' },
}

function points(line, name, pick) {
  return line.flatMap((point) => {
    const { mean, range } = pick(point)
    return Number.isFinite(mean) ? [{ x: point.x, y: mean, series: name, range }] : []
  })
}

/** Predictions are drawn without their range over problems: measured ranges would hide in them. */
function predicted(line, name, pick) {
  return points(line, name, pick).map(({ range, ...point }) => point)
}

function plotOf(key, title, yAxis, drawn) {
  const { axis, scale, format } = axes[key]
  const visible =
    scale === 'log' ? drawn.filter(({ y, range }) => y > 0 && !(range?.[0] <= 0)) : drawn
  return {
    kind: 'lines',
    plot: {
      title,
      description: `${yAxis} against ${axis}: ${[...new Set(visible.map((p) => p.series))].join(', ')}.`,
      ...{ xAxis: axis, yAxis, xFormat: format, yFormat: '~g', scale, points: visible },
    },
  }
}

function plotsOf(key, line) {
  const outside = [
    ...points(line, 'LoRA, measured', (p) => p.lora.outside),
    ...points(line, 'S²FT, measured', (p) => p.s2ft.outside),
    ...predicted(line, 'lower bound for LoRA', (p) => p.predicted.loraOutsideBound),
    ...predicted(line, 'upper bound for S²FT', (p) => p.predicted.s2ftOutsideBound),
    ...predicted(line, 'S²FT, exact mean', (p) => p.predicted.s2ft.outside),
    ...predicted(line, 'before fine-tuning', (p) => p.before),
  ]
  const inside = [
    ...points(line, 'LoRA, measured', (p) => p.lora.inside),
    ...points(line, 'S²FT, measured', (p) => p.s2ft.inside),
    ...predicted(line, 'upper bound for LoRA', (p) => p.predicted.loraInsideBound),
    ...predicted(line, 'S²FT, exact mean', (p) => p.predicted.s2ft.inside),
  ]
  return [
    plotOf(key, 'Out of distribution', 'excess risk on the other task', outside),
    plotOf(key, 'In distribution', 'excess risk on the fine-tuning task', inside),
  ]
}

const figure = (value) => (Number.isFinite(value) ? value.toPrecision(3) : '-')

function tableOf(key, line) {
  const titles = [
    ...[axes[key].axis, 'before', '|L|²', 'LoRA out', 'at least', 'S²FT out', 'exact', 'at most'],
    ...['LoRA in', 'at most', 'S²FT in', 'exact'],
  ]
  const rows = line.map((p) =>
    [
      ...[p.x, p.before.mean, p.shift.mean, p.lora.outside.mean],
      ...[p.predicted.loraOutsideBound.mean, p.s2ft.outside.mean, p.predicted.s2ft.outside.mean],
      ...[p.predicted.s2ftOutsideBound.mean, p.lora.inside.mean, p.predicted.loraInsideBound.mean],
      ...[p.s2ft.inside.mean, p.predicted.s2ft.inside.mean],
    ].map(figure),
  )
  const right = titles.map((_, i) => i)
  return { kind: 'table', table: { caption: 'Means over the seeds', titles, rows, right } }
}

/** What the numbers say, as sentences with counts. */
export function findings(results) {
  const all = Object.values(results).flat()
  const sum = (pick) => all.reduce((total, { checks }) => total + pick(checks), 0)
  const runs = sum((checks) => checks.runs)
  const worst = Math.max(
    ...all.flatMap(({ checks: { deviations } }) => Object.values(deviations).map(Math.abs)),
  )
  const better = (side) => all.filter((p) => p.s2ft[side].mean < p.lora[side].mean).length
  return [
    `S²FT's risks differ from their exact means by at most ${worst.toFixed(1)} standard errors, at ${all.length} settings and on both tasks.`,
    `Without an end of data S²FT's risk on the other task kept its bound in ${sum((c) => c.s2ftBoundWithoutEnd)} of ${runs} runs, and LoRA's was the label shift |L|² in ${sum((c) => c.loraIsShiftWithoutEnd)}.`,
    `With finite data LoRA's risk on the fine-tuning task kept its bound in ${sum((c) => c.loraInsideBound)} of ${runs} runs; it may fail in ${(100 * (1 - CONFIDENCE)).toFixed(1)}% of them.`,
    `The lower bound on the other task, from the measured risk on the fine-tuning task, held for both methods in ${sum((c) => c.outsideBound)} of ${runs} runs.`,
    `On the other task S²FT's mean risk was below LoRA's at ${better('outside')} of ${all.length} settings; on the fine-tuning task at ${better('inside')}.`,
  ]
}

const formulas = [
  'Network: x -> A (W + change) Z x, M = A W Z. Task: y = B x + e, x ~ N(0, S), e ~ N(0, noise² I). Excess risk of the map F: |(B − F) S^(1/2)|² (Frobenius). C and C′ are (B − M) S^(1/2) of the fine-tuning and of the other task, L = C′ − C is the label shift, P the projection onto what the selected channels reach, n samples, p inputs, s = rank P, q = rank A.',
  'S²FT (rows of W of the selected channels): in distribution |C − P C|² + v, out of distribution |C′|² − |P C′|² + |P L|² + v, in the mean over the data, with v = noise² s p / (n − p − 1). So out of distribution at most (1 + ε²) |C′|² + v with ε² = |P L|² / |C′|².',
  'LoRA (changes of rank r, where r suffices for C): in distribution, with the probability named below, at most 8 r noise² (√p + √q + 3)² / (n (1 − √(p/n) − 3/√n)²). Out of distribution any method has at least (|L| − √(its risk in distribution))²; for LoRA without an end of data that is |L|² exactly.',
]

export function theoryPage({ results, descent, seeds, setting }) {
  const settings = Object.entries(setting).map(([key, value]) => `${key} ${value}`)
  return {
    title: 'Risks of S²FT and LoRA in a deep linear network',
    lead: 'Excess risks after fine-tuning one layer on one task: on that task (in distribution) and on another one that the network did well before (out of distribution). Predictions beside measurements.',
    sections: [
      {
        title: 'What is predicted',
        blocks: [
          ...formulas.map((text) => ({ kind: 'text', text })),
          {
            kind: 'text',
            text: "This is the setting of the S²FT paper's section 4 (arXiv 2412.06289), whose Theorem 4.2 bounds S²FT's risk out of distribution by that of the network before, and LoRA's from below by the label shift. The constants here follow from the lines in the example's README, not from the paper.",
          },
        ],
      },
      {
        title: 'What the numbers show',
        blocks: [{ kind: 'list', items: findings(results) }],
      },
      ...Object.entries(results).map(([key, line]) => ({
        title: axes[key].title,
        blocks: [...plotsOf(key, line), tableOf(key, line)],
      })),
      {
        title: 'Gradient descent reaches these minima',
        blocks: [
          {
            kind: 'text',
            text: 'Measured risks are those of the least training loss, in closed form. Gradient descent on the factors, from the network as it is, beside it for one problem:',
          },
          {
            kind: 'table',
            table: {
              caption:
                'Training loss after gradient descent, the least one, and the distance of the maps',
              titles: ['method', 'steps', 'loss', 'least loss', 'distance'],
              rows: descent.map((d) => [
                d.method,
                String(d.steps),
                d.trainingLoss.toPrecision(8),
                d.leastTrainingLoss.toPrecision(8),
                d.distance.toExponential(1),
              ]),
              right: [1, 2, 3, 4],
            },
          },
        ],
      },
      {
        title: 'Settings',
        blocks: [{ kind: 'text', text: `${seeds} seeds a point; else ${settings.join(', ')}.` }],
      },
    ],
  }
}
