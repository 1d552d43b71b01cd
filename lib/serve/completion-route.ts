// POST /v1/completions
import { z } from 'zod'
import type { EngineEvent, EngineRequest, EngineResult } from '../engine/engine-types.js'
import { type ChoiceWriter, type Generation, newId } from './generation.js'
import { badRequest } from './http-error.js'
import { CompletionLogprobWriter } from './logprobs.js'
import { commonFields, MAX_TOP_LOGPROBS, readFields } from './request-fields.js'
import { choiceCount, endTokens, samplingOf, tokenBudget } from './sampling.js'
import type { Service } from './service.js'

/** OpenAI's default of max_tokens on this route. */
const DEFAULT_TOKENS = 16

const ids = z.array(z.number().int().nonnegative()).min(1)
const schema = z.object({
  ...commonFields,
  prompt: z.union([z.string(), ids, z.array(z.string()).min(1), z.array(ids).min(1)], {
    error: 'expected text, token ids, or a list of texts or of lists of token ids',
  }),
  echo: z.boolean().nullish(),
  logprobs: z.number().int().min(0).max(MAX_TOP_LOGPROBS).nullish(),
})

type Fields = z.infer<typeof schema>

interface Prompt {
  tokens: readonly number[]
  /** Undefined: given as tokens. */
  text: string | undefined
}

interface WriterOptions {
  service: Service
  ends: ReadonlySet<number>
  prompt: Prompt
  echo: boolean
  /** Undefined: no log-probabilities. */
  logprobs: number | undefined
  /** The engine generates one token at least; here it is left out. */
  empty: boolean
}

class CompletionWriter implements ChoiceWriter {
  generated = 0
  private readonly kept: EngineEvent[] = []
  private readonly logprobs: CompletionLogprobWriter

  constructor(private readonly options: WriterOptions) {
    this.logprobs = new CompletionLogprobWriter(options.service.model.tokenizer)
  }

  open() {
    if (!this.options.echo) return undefined
    return { text: this.promptText(), logprobs: null }
  }

  token(event: EngineEvent, streaming: boolean) {
    const { empty, ends, logprobs } = this.options
    if (empty) return undefined
    this.generated++
    const counted = logprobs !== undefined && !ends.has(event.token)
    if (!streaming) {
      if (counted) this.kept.push(event)
      return undefined
    }
    if (counted) this.logprobs.add(event, event.top)
    if (event.text === '' && !counted) return undefined
    return { text: event.text, logprobs: counted ? this.logprobs.take() : null }
  }

  close() {
    return { text: '', logprobs: null }
  }

  whole({ text, promptLogProbs }: EngineResult) {
    const { echo, empty, logprobs } = this.options
    const answer = (echo ? this.promptText() : '') + (empty ? '' : text)
    if (logprobs === undefined) return { text: answer, logprobs: null }
    if (promptLogProbs) {
      for (const [i, token] of this.options.prompt.tokens.entries()) {
        // Which others were likely at the prompt's places is not known; 0 asks for none of them.
        const top = logprobs === 0 ? [] : undefined
        this.logprobs.add({ token, logProb: promptLogProbs[i] ?? Number.NaN }, top)
      }
    }
    for (const event of this.kept) this.logprobs.add(event, event.top)
    return { text: answer, logprobs: this.logprobs.take() }
  }

  private promptText(): string {
    const { prompt, service } = this.options
    return prompt.text ?? service.model.tokenizer.decode(prompt.tokens, { skipSpecialTokens: true })
  }
}

function promptsOf({ prompt }: Fields): (string | number[])[] {
  if (typeof prompt === 'string') return [prompt]
  return typeof prompt[0] === 'number' ? [prompt as number[]] : (prompt as string[] | number[][])
}

async function encode(
  prompt: string | number[],
  { encoder, model: { vocabSize } }: Service,
): Promise<Prompt> {
  if (typeof prompt === 'string') {
    return { tokens: await encoder.encode(prompt, true, 'prompt'), text: prompt }
  }
  const unknown = prompt.find((id) => id >= vocabSize)
  if (unknown !== undefined) {
    const expected = `token ids from 0 to ${vocabSize - 1}`
    throw badRequest(`prompt: expected ${expected}, found ${unknown}`, 'prompt')
  }
  return { tokens: prompt, text: undefined }
}

/** Throws a 400 that names the field. */
export async function planCompletion(
  service: Service,
  body: Record<string, unknown>,
): Promise<Generation> {
  const fields = readFields(schema, body)
  const texts = promptsOf(fields)
  const n = choiceCount(fields, texts.length, service)
  const echo = fields.echo ?? false
  const logprobs = fields.logprobs ?? undefined
  const empty = fields.max_tokens === 0
  if (empty && !echo) {
    throw badRequest('max_tokens: expected 1 at least, or echo to be true beside 0', 'max_tokens')
  }
  if (echo && logprobs !== undefined && fields.stream) {
    throw badRequest('logprobs: not supported with echo in a stream', 'logprobs')
  }
  const sampling = samplingOf(fields, service)
  const ends = endTokens(fields, service)
  const requests: EngineRequest[] = []
  const writers: ChoiceWriter[] = []
  const asked = { field: 'max_tokens', value: fields.max_tokens, fallback: DEFAULT_TOKENS }
  for (const text of texts) {
    const prompt = await encode(text, service)
    const maxNewTokens = tokenBudget(service, asked, prompt.tokens.length, 'prompt')
    for (let i = 0; i < n; i++) {
      requests.push({
        ...sampling(requests.length),
        prompt: prompt.tokens,
        maxNewTokens: Math.max(maxNewTokens, 1),
        topLogprobs: logprobs ?? 0,
        promptLogprobs: echo && logprobs !== undefined,
      })
      writers.push(new CompletionWriter({ service, ends, prompt, echo, logprobs, empty }))
    }
  }
  const names = { id: newId('cmpl'), whole: 'text_completion', part: 'text_completion' }
  return { fields, names, requests, n, writers }
}
