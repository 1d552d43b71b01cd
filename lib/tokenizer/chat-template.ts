// Renders a model's chat template as transformers does: Jinja with trim_blocks and
// lstrip_blocks, raise_exception and strftime_now.
import { Environment, Interpreter, parse, tokenize } from '@huggingface/jinja'
import { S2FTError } from '../errors.js'
import type { TokenizerFiles } from './files.js'

/** A text part of a message whose content is a list. */
export interface ContentPart {
  type: string
  text?: string
  [key: string]: unknown
}

/** One turn. Further keys (tool_calls, name, reasoning_content) go to the template as they are. */
export interface ChatMessage {
  role: string
  content: string | ContentPart[] | null
  [key: string]: unknown
}

export interface ChatTemplateOptions {
  /** Ends with the header of an assistant turn, for the model to continue. Default false. */
  addGenerationPrompt?: boolean
  /** Tool definitions (JSON schemas), for templates that know tools. */
  tools?: unknown[]
  /** Further template variables, e.g. `{ enable_thinking: false }`. */
  variables?: Record<string, unknown>
}

const MONTHS = ['January', 'February', 'March', 'April', 'May', 'June', 'July']
MONTHS.push('August', 'September', 'October', 'November', 'December')
const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday']

/** Python's strftime in the C locale: the user's language must not change what is trained. */
export function strftime(date: Date, format: string): string {
  const pad = (n: number) => String(n).padStart(2, '0')
  const month = MONTHS[date.getMonth()]!
  const day = DAYS[date.getDay()]!
  const fields: Record<string, string> = {
    Y: String(date.getFullYear()),
    y: pad(date.getFullYear() % 100),
    m: pad(date.getMonth() + 1),
    d: pad(date.getDate()),
    H: pad(date.getHours()),
    I: pad(date.getHours() % 12 || 12),
    M: pad(date.getMinutes()),
    S: pad(date.getSeconds()),
    p: date.getHours() < 12 ? 'AM' : 'PM',
    B: month,
    b: month.slice(0, 3),
    A: day,
    a: day.slice(0, 3),
    '%': '%',
  }
  return format.replace(/%(-?)([a-zA-Z%])/g, (all, minus: string, key: string) => {
    const value = fields[key]
    if (value === undefined) return all
    return minus ? value.replace(/^0(?=\d)/, '') : value
  })
}

function range(start: number, stop?: number, step = 1): number[] {
  const [from, to] = stop === undefined ? [0, start] : [start, stop]
  const result: number[] = []
  for (let i = from; step > 0 ? i < to : i > to; i += step) result.push(i)
  return result
}

/** The template's text: chat_template.jinja, else tokenizer_config.json (string or named list). */
export function findChatTemplate(files: TokenizerFiles): string | undefined {
  if (files.chatTemplate !== undefined) return files.chatTemplate
  const template = files.tokenizerConfig.chat_template
  if (typeof template === 'string') return template
  if (!Array.isArray(template)) return undefined
  const named = template as { name?: unknown; template?: unknown }[]
  const entry = named.find((item) => item?.name === 'default')
  return typeof entry?.template === 'string' ? entry.template : undefined
}

/** A parsed chat template. */
export class ChatTemplate {
  private readonly program: ReturnType<typeof parse>

  /**
   * @param source Jinja text
   * @param origin directory named in errors
   * @param globals special tokens by name (bos_token, eos_token, ...)
   * @param now what strftime_now shows: one moment for all renderings of this template
   */
  constructor(
    source: string,
    private readonly origin: string,
    private readonly globals: Record<string, string>,
    private readonly now: Date,
  ) {
    try {
      this.program = parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }))
    } catch (cause) {
      const reason = (cause as Error).message
      throw new S2FTError('INVALID_CONFIG', `chat template of ${origin} has an error: ${reason}`, {
        cause,
      })
    }
  }

  /** Text of the conversation. Throws INVALID_DATA when the template refuses the messages. */
  render(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    const environment = new Environment()
    const variables: Record<string, unknown> = {
      true: true,
      True: true,
      false: false,
      False: false,
      none: null,
      None: null,
      range,
      raise_exception: (message: string) => {
        throw new Error(message)
      },
      strftime_now: (format: string) => strftime(this.now, format),
      ...this.globals,
      ...options.variables,
      messages,
      tools: options.tools ?? null,
      documents: null,
      add_generation_prompt: options.addGenerationPrompt ?? false,
    }
    try {
      for (const [name, value] of Object.entries(variables)) environment.set(name, value)
      const result = new Interpreter(environment).run(this.program)
      return (result as { value: string }).value
    } catch (cause) {
      throw new S2FTError(
        'INVALID_DATA',
        `chat template of ${this.origin} refuses the conversation: ${(cause as Error).message}`,
        { cause, details: { roles: messages.map((message) => message.role) } },
      )
    }
  }
}
