// From a request's fields to what the engine is asked for.
import type { EngineRequest } from '../engine/engine-types.js'
import { badRequest } from './http-error.js'
import type { CommonFields } from './request-fields.js'
import type { Service } from './service.js'

/** The engine's seeds are whole numbers from 0; negative ones take the upper end. */
const SEEDS = 2 ** 52

/** Added to the logits of tokens by their ids. */
function logitBias(
  bias: Readonly<Record<string, number>>,
  vocabSize: number,
): Record<number, number> {
  for (const key of Object.keys(bias)) {
    if (!/^\d{1,9}$/.test(key) || Number(key) >= vocabSize) {
      throw badRequest(
        `logit_bias: expected token ids from 0 to ${vocabSize - 1}, found ${JSON.stringify(key)}`,
        'logit_bias',
      )
    }
  }
  return bias
}

/** Tokens that a completion may have; throws where what was asked for does not fit. */
export function tokenBudget(
  service: Service,
  asked: { value: number | null | undefined; field: string; fallback: number },
  promptTokens: number,
  promptField: string,
): number {
  const { contextLength } = service.model
  const { maxTokens = contextLength } = service.settings
  const { value, field, fallback } = asked
  if (promptTokens === 0) {
    throw badRequest(`${promptField}: expected at least one token, found none`, promptField)
  }
  const room = contextLength - promptTokens
  // The engine generates one token at least.
  const wanted = Math.max(value ?? 1, 1)
  if (wanted > room) {
    const found = `${promptTokens} of the prompt and ${wanted} to generate`
    throw badRequest(
      `expected at most ${contextLength} tokens in all, found ${found}`,
      promptField,
      'context_length_exceeded',
    )
  }
  if (value !== null && value !== undefined && value > maxTokens) {
    throw badRequest(`${field}: expected at most ${maxTokens}, found ${value}`, field)
  }
  return value ?? Math.min(fallback, room, maxTokens)
}

/** Everything but the prompt, its budget and what is reported; `choice` counts within the request. */
export function samplingOf(
  fields: CommonFields,
  service: Service,
): (choice: number) => Omit<EngineRequest, 'prompt'> {
  const { name, vocabSize } = service.model
  const { top_k, top_p, seed, stop, stop_token_ids, logit_bias } = fields
  const topP = top_p ?? 1
  const shared: Omit<EngineRequest, 'prompt'> = {
    temperature: fields.temperature ?? 1,
    // A share of 0 still leaves the likeliest token.
    topK: topP === 0 ? 1 : Math.max(top_k ?? 0, 0),
    topP: topP === 0 ? 1 : topP,
    minP: fields.min_p ?? 0,
    repetitionPenalty: fields.repetition_penalty ?? 1,
    frequencyPenalty: fields.frequency_penalty ?? 0,
    presencePenalty: fields.presence_penalty ?? 0,
    stop: [stop ?? []].flat(),
    stopTokenIds: stop_token_ids ?? [],
    ...(logit_bias && { logitBias: logitBias(logit_bias, vocabSize) }),
    ...(fields.model !== name && { adapter: fields.model }),
  }
  return (choice) => {
    if (seed === null || seed === undefined) return shared
    // Choices with one seed would be one and the same text.
    const own = seed % SEEDS
    return { ...shared, seed: (own < 0 ? own + SEEDS : own) + choice }
  }
}

/** How many choices there are; throws for more than the server's limit and for `best_of`. */
export function choiceCount(fields: CommonFields, prompts: number, service: Service): number {
  const n = fields.n ?? 1
  const { maxChoices } = service.settings
  if ((fields.best_of ?? n) !== n) {
    throw badRequest(`best_of: expected n (${n}) or nothing, found ${fields.best_of}`, 'best_of')
  }
  if (n * prompts > maxChoices) {
    const found = prompts === 1 ? `${n}` : `${n} times ${prompts} prompts`
    throw badRequest(`n: expected at most ${maxChoices} choices in all, found ${found}`, 'n')
  }
  return n
}

/** Tokens that end a choice and are no part of it. */
export function endTokens(fields: CommonFields, { model }: Service): ReadonlySet<number> {
  return new Set([...model.tokenizer.eosTokenIds, ...(fields.stop_token_ids ?? [])])
}
