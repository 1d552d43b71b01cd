// Finds the assistant's turns in a rendered conversation, whatever the chat template does.
import { S2FTError } from '../errors.js'
import type { ChatMessage, ChatTemplateOptions } from '../tokenizer/index.js'

/** Renders a conversation; a Tokenizer is one. */
export interface ChatRenderer {
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions): string
}

/** [start, end) in characters. A turn ends after its end-of-turn token. */
export type Span = [start: number, end: number]

const MARKER = 'qX7s2ftMarkerX7q'

function commonLength(a: string, b: string): number {
  const limit = Math.min(a.length, b.length)
  let i = 0
  while (i < limit && a.charCodeAt(i) === b.charCodeAt(i)) i++
  return i
}

/** Where a turn's content lies in `text`, found by rendering with a marker in its place. */
function locateContent(
  render: (messages: readonly ChatMessage[]) => string,
  messages: readonly ChatMessage[],
  index: number,
  text: string,
): { start: number; end: number; closing: string } {
  const marked = messages.map((turn, i) => (i === index ? { ...turn, content: MARKER } : turn))
  const whole = render(marked)
  const start = whole.indexOf(MARKER)
  const rest = whole.slice(start + MARKER.length)
  const end = text.length - rest.length
  const found = start >= 0 && start === whole.lastIndexOf(MARKER) && end >= start
  if (!found || !text.startsWith(whole.slice(0, start)) || !text.endsWith(rest)) {
    throw new S2FTError(
      'INVALID_DATA',
      `the chat template does not show where assistant turn ${index} begins and ends`,
    )
  }
  const alone = render(marked.slice(0, index + 1))
  return { start, end, closing: alone.slice(alone.lastIndexOf(MARKER) + MARKER.length) }
}

/**
 * Renders the conversation and finds the turns of the assistant from `trainFrom` on, each from
 * after its header (the generation prompt) to after its end-of-turn token.
 *
 * A turn starts where the conversation before it, rendered with a generation prompt, ends; it
 * ends where the conversation up to it ends. Templates that render earlier turns differently
 * from the last (dropping its reasoning, say) break this; there the content itself is located.
 * Throws INVALID_DATA when that fails too, or when the template refuses the conversation.
 */
export function renderTurns(
  tokenizer: ChatRenderer,
  messages: readonly ChatMessage[],
  options: { trainFrom?: number; tools?: unknown[] } = {},
): { text: string; spans: Span[] } {
  const extra = options.tools ? { tools: options.tools } : {}
  const render = (turns: readonly ChatMessage[]) => tokenizer.applyChatTemplate(turns, extra)
  const attempt = (turns: readonly ChatMessage[], addGenerationPrompt: boolean) => {
    try {
      return tokenizer.applyChatTemplate(turns, { ...extra, addGenerationPrompt })
    } catch {
      return undefined // Some templates refuse a conversation that stops here.
    }
  }
  const text = render(messages)
  const spans: Span[] = []
  for (let i = options.trainFrom ?? 0; i < messages.length; i++) {
    if (messages[i]!.role !== 'assistant') continue
    const before = attempt(messages.slice(0, i), true)
    const upTo = i === messages.length - 1 ? text : attempt(messages.slice(0, i + 1), false)
    const floor = spans.at(-1)?.[1] ?? 0
    let start = before !== undefined && text.startsWith(before) ? before.length : -1
    let end = upTo !== undefined && text.startsWith(upTo) ? upTo.length : -1
    if (start < floor || end < start) {
      const content = locateContent(render, messages, i, text)
      if (start < floor || start > content.end) start = content.start
      if (end < start) {
        end = content.end + commonLength(content.closing, text.slice(content.end))
      }
    }
    spans.push([start, end])
  }
  return { text, spans }
}
