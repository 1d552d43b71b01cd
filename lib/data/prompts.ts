// What a row looks like to the model: a conversation for the chat template, or plain prompt and
// completion. Training and evaluation both come through here, so that they agree.
import { S2FTError } from '../errors.js'
import type { ChatMessage } from '../tokenizer/index.js'
import type { DataRow } from './rows.js'

/**
 * `chat`: the model's chat template. `alpaca`: the prompt of the paper's runs. `none`: prompt and
 * completion as they are. `auto`: chat where the model has a template; otherwise alpaca for
 * instructions and questions, none for prompt + completion.
 */
export type TemplateName = 'auto' | 'chat' | 'alpaca' | 'none'

/** Part of a tokenizer that decides what `auto` means. */
export interface TemplateSource {
  readonly hasChatTemplate: boolean
  readonly directory?: string
}

/** A row rendered as text or as turns; `completion` is what is learned. */
export type Rendered =
  | { form: 'chat'; messages: ChatMessage[]; tools?: unknown[]; trainFrom: number }
  | { form: 'plain'; prompt: string; completion: string }
  | { form: 'text'; text: string; document: boolean }

/** The prompt of the paper's runs (LLM-Adapters), and Alpaca's own where a row has an input. */
export function alpacaPrompt(instruction: string, input = ''): string {
  const opening = 'Below is an instruction that describes a task'
  const request = 'Write a response that appropriately completes the request.'
  if (input === '') {
    return `${opening}. ${request}\n\n### Instruction:\n${instruction}\n\n### Response:\n`
  }
  return `${opening}, paired with an input that provides further context. ${request}\n\n### Instruction:\n${instruction}\n\n### Input:\n${input}\n\n### Response:\n`
}

/** 'A', 'B', ... for the choices of a question. */
export function choiceLetter(index: number): string {
  return String.fromCharCode(65 + index)
}

/** A multiple-choice question as text with lettered choices. */
export function choiceQuestion(question: string, choices: readonly string[]): string {
  const lines = choices.map((choice, i) => `${choiceLetter(i)}. ${choice}`)
  return `${question.trim()}\n${lines.join('\n')}\nAnswer with the letter of the correct choice.`
}

/** The request and the answer of a row without turns of its own. */
function requestOf(row: Exclude<DataRow, { kind: 'messages' | 'text' }>) {
  switch (row.kind) {
    case 'prompt':
      return { request: row.prompt, input: '', answer: row.completion }
    case 'instruction':
      return { request: row.instruction, input: row.input, answer: row.output }
    case 'question':
      return { request: row.question, input: '', answer: row.answer }
    case 'choice':
      return {
        request: choiceQuestion(row.question, row.choices),
        input: '',
        answer: choiceLetter(row.answer),
      }
  }
}

function resolve(template: TemplateName, row: DataRow, tokenizer: TemplateSource): TemplateName {
  if (template === 'chat' && !tokenizer.hasChatTemplate) {
    throw new S2FTError(
      'INVALID_ARGUMENT',
      `template "chat": the model in ${tokenizer.directory ?? 'use'} has no chat template; use "alpaca" or "none"`,
    )
  }
  if (template !== 'auto') return template
  if (tokenizer.hasChatTemplate) return 'chat'
  return row.kind === 'prompt' ? 'none' : 'alpaca'
}

/** Renders a row. Throws INVALID_ARGUMENT when the template cannot express it. */
export function renderRow(
  row: DataRow,
  template: TemplateName,
  tokenizer: TemplateSource,
): Rendered {
  if (row.kind === 'text') return { form: 'text', text: row.text, document: row.document }
  if (row.kind === 'messages') {
    if ((template !== 'auto' && template !== 'chat') || !tokenizer.hasChatTemplate) {
      const why = tokenizer.hasChatTemplate ? `template is "${template}"` : 'the model has none'
      throw new S2FTError(
        'INVALID_ARGUMENT',
        `${row.source}: a row of messages needs the model's chat template, but ${why}`,
      )
    }
    const tools = row.tools ? { tools: row.tools } : {}
    return { form: 'chat', messages: row.messages, ...tools, trainFrom: row.trainFrom }
  }
  const { request, input, answer } = requestOf(row)
  switch (resolve(template, row, tokenizer)) {
    case 'chat': {
      const content = input === '' ? request : `${request}\n\n${input}`
      const messages = [
        { role: 'user', content },
        { role: 'assistant', content: answer },
      ]
      return { form: 'chat', messages, trainFrom: 0 }
    }
    case 'alpaca':
      return { form: 'plain', prompt: alpacaPrompt(request, input), completion: answer }
    default: {
      if (row.kind === 'prompt') return { form: 'plain', prompt: request, completion: answer }
      const prompt = input === '' ? `${request}\n` : `${request}\n${input}\n`
      return { form: 'plain', prompt, completion: answer }
    }
  }
}
