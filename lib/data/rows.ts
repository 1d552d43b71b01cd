// The shapes a data row may have, checked one by one, and the one form the rest works with.
import { z } from 'zod'
import type { ChatMessage } from '../tokenizer/index.js'

const part = z.looseObject({ type: z.string(), text: z.string().optional() })
const message = z.looseObject({
  role: z.string().min(1),
  content: z.union([z.string(), z.array(part), z.null()]).optional(),
})
const conversation = z.array(message).min(1)
const answer = z.union([z.string(), z.number()])

const schemas = {
  messages: z.object({ messages: conversation, tools: z.array(z.unknown()).nullish() }),
  prompt: z.union([
    z.object({ prompt: z.string(), completion: z.string() }),
    z.object({ prompt: conversation, completion: conversation }),
  ]),
  instruction: z.object({
    instruction: z.string(),
    input: z.string().nullish(),
    output: z.string().nullish(),
    answer: answer.nullish(),
  }),
  choice: z.object({
    question: z.string(),
    choices: z.array(z.string()).min(2).max(26),
    answer,
    subject: z.string().nullish(),
  }),
  question: z.object({ question: z.string(), answer }),
  text: z.object({ text: z.string() }),
}

/** The keys that make a row of a shape, most telling first. */
const SHAPES: [keyof typeof schemas, string[]][] = [
  ['messages', ['messages']],
  ['prompt', ['prompt', 'completion']],
  ['instruction', ['instruction']],
  ['choice', ['question', 'choices', 'answer']],
  ['question', ['question', 'answer']],
  ['text', ['text']],
]

const EXPECTED =
  'messages | prompt + completion | instruction [+ input] + output | question + answer | question + choices + answer | text'

/** `file:line` for JSONL, `file[index]` for an element of a JSON array. */
interface Sourced {
  source: string
}

/** A row after checking. */
export type DataRow = Sourced &
  (
    | {
        kind: 'messages'
        messages: ChatMessage[]
        tools?: unknown[]
        /** Assistant turns before this index are context, not targets. */
        trainFrom: number
      }
    | { kind: 'prompt'; prompt: string; completion: string }
    | {
        kind: 'instruction'
        instruction: string
        input: string
        output: string
        /** The short gold answer of an evaluation set. */
        answer?: string
      }
    | { kind: 'question'; question: string; answer: string }
    | {
        kind: 'choice'
        question: string
        choices: string[]
        /** Index into choices. */
        answer: number
        subject?: string
      }
    /** A `document` is a whole text file: it is cut into blocks, not truncated. */
    | { kind: 'text'; text: string; document: boolean }
  )

export type RowKind = DataRow['kind']

function describe(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return `an array of ${value.length}`
  if (typeof value !== 'object') return `${typeof value} ${JSON.stringify(value)?.slice(0, 60)}`
  const keys = Object.keys(value)
  return keys.length === 0 ? 'an empty object' : `an object with the keys ${keys.join(', ')}`
}

function at(value: unknown, path: PropertyKey[]): unknown {
  let current = value
  for (const key of path) current = (current as Record<PropertyKey, unknown> | undefined)?.[key]
  return current
}

/** Says in one line what the first problem is: where in the row, what was expected, what found. */
function explain(error: z.core.$ZodError, row: unknown, shape: string): string {
  let issue = error.issues[0]!
  const path: PropertyKey[] = [...issue.path]
  while (issue.code === 'invalid_union' && issue.errors.length > 0) {
    // The branch that got furthest is the one that was meant.
    const branches = issue.errors.filter((branch) => branch.length > 0)
    const deepest = branches.sort((a, b) => b[0]!.path.length - a[0]!.path.length)[0]
    if (!deepest || deepest[0]!.path.length === 0) break
    issue = deepest[0]!
    path.push(...issue.path)
  }
  const found = at(row, path)
  const where = path.map((key) => (typeof key === 'number' ? `[${key}]` : `.${String(key)}`))
  const name = where.join('').replace(/^\./, '')
  const seen = found === undefined ? 'nothing' : describe(found)
  const problem = issue.message.replace(/^Invalid input: /, '').replace(/, received .*$/, '')
  return `${name} of a "${shape}" row: ${problem}, found ${seen}`
}

function choiceIndex(gold: string | number, choices: string[]): number {
  const text = String(gold).trim()
  if (/^\d+$/.test(text)) return Number(text)
  if (/^[A-Za-z]$/.test(text)) return text.toUpperCase().charCodeAt(0) - 65
  return choices.indexOf(text)
}

/** Returns the checked row, or a sentence that says what is wrong with it. */
export function parseRow(value: unknown, source: string): DataRow | string {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return `expected an object with ${EXPECTED}, found ${describe(value)}`
  }
  const shape = SHAPES.find(([, keys]) => keys.every((key) => key in value))?.[0]
  if (!shape) return `expected an object with ${EXPECTED}, found ${describe(value)}`
  const result = schemas[shape].safeParse(value)
  if (!result.success) return explain(result.error, value, shape)
  return normalise(shape, value as Record<string, unknown>, source)
}

function normalise(shape: RowKind, row: Record<string, unknown>, source: string): DataRow | string {
  switch (shape) {
    case 'messages': {
      const tools = Array.isArray(row.tools) ? { tools: row.tools as unknown[] } : {}
      return { kind: shape, messages: turns(row.messages), ...tools, trainFrom: 0, source }
    }
    case 'prompt': {
      if (typeof row.prompt === 'string') {
        return { kind: shape, prompt: row.prompt, completion: row.completion as string, source }
      }
      const prompt = turns(row.prompt)
      const messages = [...prompt, ...turns(row.completion)]
      return { kind: 'messages', messages, trainFrom: prompt.length, source }
    }
    case 'instruction': {
      const { output, answer } = row as { output?: string | null; answer?: string | number | null }
      if (output == null && answer == null) {
        return `output of an "instruction" row: expected string, found ${output === null ? 'null' : 'nothing'}`
      }
      return {
        kind: shape,
        instruction: row.instruction as string,
        input: (row.input as string | null | undefined) ?? '',
        output: output ?? '',
        ...(answer == null ? {} : { answer: String(answer) }),
        source,
      }
    }
    case 'choice': {
      const choices = row.choices as string[]
      const index = choiceIndex(row.answer as string | number, choices)
      if (index < 0 || index >= choices.length) {
        return `answer of a "choice" row: expected an index 0..${choices.length - 1}, a letter or one of the choices, found ${describe(row.answer)}`
      }
      const subject = typeof row.subject === 'string' ? { subject: row.subject } : {}
      return {
        kind: shape,
        question: row.question as string,
        choices,
        answer: index,
        ...subject,
        source,
      }
    }
    case 'question':
      return { kind: shape, question: row.question as string, answer: String(row.answer), source }
    case 'text':
      return { kind: shape, text: row.text as string, document: false, source }
  }
}

function turns(value: unknown): ChatMessage[] {
  return (value as ChatMessage[]).map((turn) => ({ ...turn, content: turn.content ?? null }))
}
