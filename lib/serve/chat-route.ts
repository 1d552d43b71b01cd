// POST /v1/chat/completions
import { z } from 'zod'
import type { EngineEvent, EngineResult } from '../engine/engine-types.js'
import { chatFields, chatText } from './chat-messages.js'
import { type ChoiceWriter, type Generation, newId } from './generation.js'
import { badRequest } from './http-error.js'
import { type ChatTokenLogprobs, chatLogprobs } from './logprobs.js'
import { commonFields, MAX_TOP_LOGPROBS, readFields } from './request-fields.js'
import { choiceCount, endTokens, samplingOf, tokenBudget } from './sampling.js'
import type { Service } from './service.js'

const schema = z.object({
  ...commonFields,
  ...chatFields,
  max_completion_tokens: z.number().int().positive().nullish(),
  max_tokens: z.number().int().positive().nullish(),
  logprobs: z.boolean().nullish(),
  top_logprobs: z.number().int().min(0).max(MAX_TOP_LOGPROBS).nullish(),
})

class ChatWriter implements ChoiceWriter {
  generated = 0
  private readonly logprobs: ChatTokenLogprobs[] = []

  constructor(
    private readonly service: Service,
    private readonly ends: ReadonlySet<number>,
    private readonly wanted: boolean,
  ) {}

  open() {
    return { delta: { role: 'assistant', content: '', refusal: null }, logprobs: null }
  }

  token(event: EngineEvent, streaming: boolean) {
    this.generated++
    const entry =
      this.wanted && !this.ends.has(event.token)
        ? chatLogprobs(event, event.top, this.service.model.tokenizer)
        : undefined
    if (!streaming) {
      if (entry) this.logprobs.push(entry)
      return undefined
    }
    if (event.text === '' && !entry) return undefined
    return { delta: { content: event.text }, logprobs: this.written(entry ? [entry] : undefined) }
  }

  close() {
    return { delta: {}, logprobs: null }
  }

  whole({ text }: EngineResult) {
    const message = { role: 'assistant', content: text, refusal: null }
    return { message, logprobs: this.written(this.wanted ? this.logprobs : undefined) }
  }

  private written(content: ChatTokenLogprobs[] | undefined) {
    return content ? { content, refusal: null } : null
  }
}

/** Throws a 400 that names the field. */
export async function planChat(
  service: Service,
  body: Record<string, unknown>,
): Promise<Generation> {
  const fields = readFields(schema, body)
  const wanted = fields.logprobs ?? false
  if (!wanted && fields.top_logprobs) {
    throw badRequest('top_logprobs: expected logprobs to be true beside it', 'top_logprobs')
  }
  const n = choiceCount(fields, 1, service)
  const sampling = samplingOf(fields, service)
  const text = chatText(service.model, fields.messages, fields.chat_template_kwargs)
  const prompt = await service.encoder.encode(text, false, 'messages')
  const field = fields.max_completion_tokens ? 'max_completion_tokens' : 'max_tokens'
  const asked = { field, value: fields[field], fallback: Number.POSITIVE_INFINITY }
  const maxNewTokens = tokenBudget(service, asked, prompt.length, 'messages')
  const topLogprobs = fields.top_logprobs ?? 0
  const requests = Array.from({ length: n }, (_, i) => ({
    ...sampling(i),
    ...{ prompt, maxNewTokens, topLogprobs },
  }))
  const ends = endTokens(fields, service)
  const writers = requests.map(() => new ChatWriter(service, ends, wanted))
  const names = {
    id: newId('chatcmpl'),
    whole: 'chat.completion',
    part: 'chat.completion.chunk',
  }
  return { fields, names, requests, n, writers }
}
