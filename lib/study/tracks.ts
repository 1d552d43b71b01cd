// What the study trains on and measures by: two tracks, their test sets, and the figures made of them.

/** A track is what a model is trained for. */
export const tracks = ['math', 'commonsense'] as const
export type Track = (typeof tracks)[number]

/**
 * `loss`: mean negative log-likelihood of the reference answer's tokens.
 * `choice`: right or wrong by the options' probabilities, and the negative log-probability of the
 * right one among them.
 * `answer`: right or wrong by the last number (or letter) of a generated answer.
 */
export type Quantity = 'loss' | 'choiceLoss' | 'chosen' | 'answered'

export interface TestSet {
  name: string
  /** Below the data folder. */
  file: string
  scored: readonly ('loss' | 'choice' | 'answer')[]
  /** Rows kept out of the training file; otherwise the file is a test set of its own. */
  heldOut?: boolean
}

/** Rows that train, in one list. */
export const trainingFiles: Readonly<Record<Track, readonly string[]>> = {
  math: ['math/gsm8k-train.jsonl'],
  commonsense: ['boolq', 'ARC-Easy', 'ARC-Challenge', 'openbookqa'].map(
    (name) => `commonsense/${name}-train.json`,
  ),
}

const choice = (name: string): TestSet => ({
  name,
  file: `commonsense/${name}-test.json`,
  scored: ['choice'],
})
const worked = (name: string): TestSet => ({
  name,
  file: `math/${name}-test.json`,
  scored: ['loss', 'answer'],
})

/** Test sets of a track's own distribution and near it. */
export const testSets: Readonly<Record<Track, readonly TestSet[]>> = {
  math: [
    {
      name: 'gsm8k held out',
      file: 'math/gsm8k-train.jsonl',
      scored: ['loss', 'answer'],
      heldOut: true,
    },
    worked('gsm8k'),
    worked('SVAMP'),
    worked('MultiArith'),
    // Its reference answers are empty.
    { ...worked('mawps'), scored: ['answer'] },
    worked('AQuA'),
  ],
  commonsense: ['boolq', 'ARC-Easy', 'ARC-Challenge', 'openbookqa', 'piqa', 'winogrande'].map(
    choice,
  ),
}

/** Far from both tracks: what fine-tuning may make a model forget. */
export const farSets: readonly TestSet[] = [
  { name: 'mmlu', file: 'mmlu/test.jsonl', scored: ['choice'] },
  { name: 'text', file: 'text/tinyshakespeare.txt', scored: ['loss'] },
]

/** One figure: a mean over the items of some sets. */
export interface Metric {
  name: string
  quantity: Quantity
  sets: readonly string[]
  better: 'lower' | 'higher'
}

const loss = (name: string, sets: readonly string[]): Metric => {
  return { name: `${name}: loss`, quantity: 'loss', sets, better: 'lower' }
}
const answers = (name: string, sets: readonly string[]): Metric => {
  return { name: `${name}: accuracy`, quantity: 'answered', sets, better: 'higher' }
}
const choices = (name: string, sets: readonly string[]): Metric[] => [
  { name: `${name}: choice loss`, quantity: 'choiceLoss', sets, better: 'lower' },
  { name: `${name}: accuracy`, quantity: 'chosen', sets, better: 'higher' },
]

/** Of a track's own sets: in its distribution, in it but written in another style, near it. */
export const trackMetrics: Readonly<Record<Track, readonly Metric[]>> = {
  math: [
    loss('in', ['gsm8k held out']),
    loss('in, other style', ['gsm8k']),
    answers('in', ['gsm8k held out', 'gsm8k']),
    loss('near', ['SVAMP', 'MultiArith', 'AQuA']),
    answers('near', ['SVAMP', 'MultiArith', 'mawps', 'AQuA']),
  ],
  commonsense: [
    ...choices('in', ['boolq', 'ARC-Easy', 'ARC-Challenge', 'openbookqa']),
    ...choices('near', ['piqa', 'winogrande']),
  ],
}

export const farMetrics: readonly Metric[] = [
  ...choices('far, MMLU', ['mmlu']),
  loss('far, text', ['text']),
]

/** One figure a set, for tables of single sets. */
export function setMetrics(sets: readonly TestSet[]): Metric[] {
  return sets.flatMap(({ name, scored }) =>
    scored.flatMap((how) => {
      if (how === 'choice') return choices(name, [name])
      return how === 'loss' ? [loss(name, [name])] : [answers(name, [name])]
    }),
  )
}
