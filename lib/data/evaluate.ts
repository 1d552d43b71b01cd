// Prompts and gold answers for evaluation: what the model continues, and what is right.
import { S2FTError } from '../errors.js'
import { choiceLabels, goldNumber, isMathCorrect, readChoice } from './answers.js'
import {
  commonPrefix,
  type EncodedSample,
  encodeOpen,
  IGNORED,
  type SampleTokenizer,
} from './encode-row.js'
import { choiceLetter, renderRow, type TemplateName } from './prompts.js'
import type { DataRow } from './rows.js'

export interface PromptOptions {
  /** Must be the one of training. Default 'auto'. */
  template?: TemplateName
}

/** A prompt as text and ids, ready to be continued. */
export interface EncodedPrompt {
  text: string
  tokens: Int32Array
  source: string
}

/** A multiple-choice question: one sequence an option, with labels on the option's tokens. */
export interface EncodedChoice {
  prompt: EncodedPrompt
  labels: string[]
  /** Index into labels and options. */
  gold: number
  /** Sum the log-probabilities of the labelled tokens and compare. */
  options: EncodedSample[]
}

function promptText(row: DataRow, tokenizer: SampleTokenizer, template: TemplateName) {
  const rendered = renderRow(row, template, tokenizer)
  if (rendered.form === 'chat') {
    const last = rendered.messages.at(-1)?.role === 'assistant' ? -1 : undefined
    const tools = rendered.tools ? { tools: rendered.tools } : {}
    const text = tokenizer.applyChatTemplate(rendered.messages.slice(0, last), {
      ...tools,
      addGenerationPrompt: true,
    })
    return { text, chat: true }
  }
  return { text: rendered.form === 'plain' ? rendered.prompt : rendered.text, chat: false }
}

/** The prompt of a row, rendered as in training but without the answer. */
export function encodePrompt(
  row: DataRow,
  tokenizer: SampleTokenizer,
  options: PromptOptions = {},
): EncodedPrompt {
  const { text, chat } = promptText(row, tokenizer, options.template ?? 'auto')
  const ids = chat
    ? tokenizer.encode(text, { addSpecialTokens: false })
    : encodeOpen(tokenizer, text)
  return { text, tokens: Int32Array.from(ids), source: row.source }
}

/** Labels, gold label and the answers to score of a multiple-choice row. */
function choicesOf(row: DataRow): { labels: string[]; gold: number; answers: string[] } {
  if (row.kind === 'choice') {
    const labels = row.choices.map((_, i) => choiceLetter(i))
    return { labels, gold: row.answer, answers: labels }
  }
  const gold = row.kind === 'instruction' ? row.answer : undefined
  const labels = row.kind === 'instruction' ? choiceLabels(row.instruction, gold) : undefined
  const index =
    labels?.findIndex((label) => label.toLowerCase() === gold?.trim().toLowerCase()) ?? -1
  if (row.kind !== 'instruction' || gold === undefined || !labels || index < 0) {
    throw new S2FTError(
      'INVALID_DATA',
      `${row.source}: task "choice" expected question + choices + answer, or an instruction whose answer is one of true|false, answer1..5, solution1|2, ending1..4, option1|2; found ${
        gold === undefined
          ? `a "${row.kind}" row without an answer`
          : `the answer ${JSON.stringify(gold)}`
      }`,
    )
  }
  // The gold output with another label in place of its own: options differ in the label alone.
  const own = labels[index]!
  const pattern = row.output.includes(own) ? row.output : `the correct answer is ${own}`
  return { labels, gold: index, answers: labels.map((label) => pattern.replace(own, () => label)) }
}

/** The prompt and every option of a multiple-choice row. Throws INVALID_DATA for other rows. */
export function encodeChoice(
  row: DataRow,
  tokenizer: SampleTokenizer,
  options: PromptOptions = {},
): EncodedChoice {
  const { labels, gold, answers } = choicesOf(row)
  return { labels, gold, ...encodeOptions(row, answers, tokenizer, options) }
}

/** A row's prompt, and its continuation by each of the answers with labels on the answer alone. */
export function encodeOptions(
  row: DataRow,
  answers: readonly string[],
  tokenizer: SampleTokenizer,
  options: PromptOptions = {},
): Pick<EncodedChoice, 'prompt' | 'options'> {
  const prompt = encodePrompt(row, tokenizer, options)
  const { chat } = promptText(row, tokenizer, options.template ?? 'auto')
  const encoded = answers.map((answer) => {
    const text = prompt.text + answer
    return chat ? tokenizer.encode(text, { addSpecialTokens: false }) : encodeOpen(tokenizer, text)
  })
  // All options are scored from the same token on.
  const start = Math.min(...encoded.map((ids) => commonPrefix(ids, prompt.tokens)))
  const sequences = encoded.map((ids): EncodedSample => {
    const tokens = Int32Array.from(ids)
    const scored = tokens.map((id, i) => (i < start ? IGNORED : id))
    return { tokens, labels: scored, source: row.source }
  })
  return { prompt, options: sequences }
}

/** What is right for a generated answer, and how it is read. */
export type Gold =
  | { task: 'math'; value: number }
  | { task: 'choice'; label: string; labels: string[] }

/**
 * The gold answer of a row. Under `math` a row whose answer is a letter (AQuA) is read as a
 * lettered choice. Throws INVALID_DATA when the row has no answer of that kind.
 */
export function goldOf(row: DataRow, task: 'choice' | 'math'): Gold {
  if (task === 'choice') {
    const { labels, gold } = choicesOf(row)
    return { task, label: labels[gold]!, labels }
  }
  const text = mathAnswer(row)
  const letter = text?.trim().match(/^[A-E]$/)?.[0]
  if (letter) return { task: 'choice', label: letter, labels: ['A', 'B', 'C', 'D', 'E'] }
  // A label such as `answer1` ends in a digit but is no number.
  const isLabel = row.kind === 'instruction' && /^[a-z]+\d$/i.test(text?.trim() ?? '')
  const value = text === undefined || isLabel ? undefined : goldNumber(text)
  if (value === undefined) {
    const found = text === undefined ? `a "${row.kind}" row without one` : JSON.stringify(text)
    throw new S2FTError(
      'INVALID_DATA',
      `${row.source}: task "math" expected an answer with a number, found ${found}`,
    )
  }
  return { task, value }
}

function mathAnswer(row: DataRow): string | undefined {
  switch (row.kind) {
    case 'question':
      return row.answer
    case 'instruction':
      return row.answer ?? row.output
    case 'prompt':
      return row.completion
    case 'messages': {
      const last = row.messages.at(-1)
      return last?.role === 'assistant' && typeof last.content === 'string'
        ? last.content
        : undefined
    }
    default:
      return undefined
  }
}

/** Whether a generated text answers a question rightly. */
export function isCorrect(text: string, gold: Gold): boolean {
  if (gold.task === 'math') return isMathCorrect(text, gold.value)
  return readChoice(text, gold.labels) === gold.label
}
