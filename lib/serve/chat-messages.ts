// The conversation of a chat request, as the model's template takes it.
import { z } from 'zod'
import { S2FTError } from '../errors.js'
import type { ChatMessage } from '../tokenizer/index.js'
import { badRequest } from './http-error.js'
import type { ServedModel } from './service.js'

const part = z.looseObject({ type: z.string() })
const message = z.looseObject({
  role: z.enum(['system', 'developer', 'user', 'assistant'], {
    error: 'expected system, developer, user or assistant',
  }),
  content: z.union([z.string(), z.array(part).min(1)], {
    error: 'expected text or a list of parts of type text',
  }),
})

export const chatFields = {
  messages: z.array(message, { error: 'expected a list of messages' }).min(1),
  chat_template_kwargs: z.record(z.string(), z.unknown()).nullish(),
}

type Message = z.infer<typeof message>

function contentText(content: Message['content'], at: string): string {
  if (typeof content === 'string') return content
  const texts = content.map(({ type, text }, i) => {
    if (type === 'text' && typeof text === 'string') return text
    const found = type === 'text' ? 'one without text' : `one of type ${JSON.stringify(type)}`
    throw badRequest(`${at}.content.${i}: expected a part of type text, found ${found}`, 'messages')
  })
  // As vLLM joins them for templates that take a text only.
  return texts.join('\n')
}

function toChatMessage({ role, content, ...rest }: Message, index: number): ChatMessage {
  const at = `messages.${index}`
  for (const key of ['tool_calls', 'function_call', 'audio']) {
    const value = rest[key]
    if (value === undefined || value === null || (Array.isArray(value) && value.length === 0))
      continue
    throw badRequest(`${at}.${key}: not supported by this server`, 'messages')
  }
  return {
    // OpenAI's newer name for the system's part, which templates do not know.
    role: role === 'developer' ? 'system' : role,
    content: contentText(content, at),
    ...(typeof rest.name === 'string' && { name: rest.name }),
  }
}

/** The conversation as text, with the header of the answer behind it. */
export function chatText(
  { tokenizer, name }: ServedModel,
  messages: readonly Message[],
  variables: Record<string, unknown> | null | undefined,
): string {
  if (!tokenizer.hasChatTemplate) {
    throw badRequest(`${name} has no chat template: expected a request to /v1/completions`)
  }
  const conversation = messages.map(toChatMessage)
  try {
    return tokenizer.applyChatTemplate(conversation, {
      addGenerationPrompt: true,
      ...(variables && { variables }),
    })
  } catch (error) {
    if (!(error instanceof S2FTError)) throw error
    // The whole message names the model's directory.
    const reason = error.cause instanceof Error ? error.cause.message : error.message
    throw badRequest(`messages: the chat template refuses them: ${reason}`, 'messages')
  }
}
