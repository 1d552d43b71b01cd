// The JSON lines of a study's results file: settings, what ran where, cases, failures.
import * as z from 'zod'
import { run } from '../bench/lines.js'

const values = z.array(z.number())
const scores = z.record(
  z.string(),
  z.object({
    loss: values.optional(),
    choiceLoss: values.optional(),
    chosen: values.optional(),
    answered: values.optional(),
  }),
)

/** What all cases have in common; results of others do not belong in the same file. */
const study = z.object({
  type: z.literal('study'),
  settings: z.looseObject({ preset: z.string() }),
  model: z.string(),
  /** Hashes of the weights and of all token ids. */
  modelFingerprint: z.string(),
  dataFingerprint: z.string(),
  dtype: z.string(),
  device: z.string(),
  parameters: z.number(),
  /** Rows that train and validate, items of each set; what the data gave of what was asked for. */
  rows: z.record(z.string(), z.number()),
})

const studyCase = z.object({
  type: z.literal('case'),
  key: z.string(),
  kind: z.enum(['base', 'train', 'fusion']),
  /** Trained values; 0 where nothing trains, null for fusion. */
  trainable: z.number().nullable(),
  steps: z.number(),
  /** Tokens trained on, prompts included. */
  tokens: z.number(),
  /** Of the first and the last step; null where nothing trains. */
  lossFirst: z.number().nullable(),
  lossLast: z.number().nullable(),
  /** A step's loss or gradient was not finite; nothing was scored. */
  diverged: z.boolean(),
  trainSeconds: z.number(),
  seconds: z.number(),
  scores,
})

const failure = z.object({
  type: z.literal('failure'),
  key: z.string(),
  code: z.string(),
  message: z.string(),
})

const line = z.discriminatedUnion('type', [study, run, studyCase, failure])

export type StudyLine = z.infer<typeof study>
export type RunLine = z.infer<typeof run>
export type CaseLine = z.infer<typeof studyCase>
export type FailureLine = z.infer<typeof failure>
export type AnyLine = z.infer<typeof line>

/** One line of a results file, or undefined when it is none. */
export function parseStudyLine(text: string): AnyLine | undefined {
  try {
    const found = line.safeParse(JSON.parse(text))
    return found.success ? found.data : undefined
  } catch {
    return undefined
  }
}

/** One text for each reason, with the cases that it stopped. */
export function failureTexts(failures: readonly FailureLine[]): string[] {
  const reasons = new Map<string, string[]>()
  for (const { key, code, message } of failures) {
    const reason = `[${code}] ${message}`
    reasons.set(reason, [...(reasons.get(reason) ?? []), key])
  }
  return [...reasons].map(([reason, [first, ...others]]) => {
    const more = others.length > 0 ? ` and ${others.length} more` : ''
    return `${first}${more}: ${reason}`
  })
}
