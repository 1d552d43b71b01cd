// Fields that chat and text completions share, with OpenAI's defaults, and those that are refused
// because ignoring them would give another answer than was asked for.
import { z } from 'zod'
import { validate } from '../model/validate.js'
import { badRequest } from './http-error.js'

/** OpenAI's own limit is 4; each costs a search per token. */
const MAX_STOPS = 16
/** Ranks that the engine reports beside a token. */
export const MAX_TOP_LOGPROBS = 20

const penalty = z.number().min(-2).max(2)
const share = z.number().min(0).max(1)
const stopText = z.string().min(1)

export const commonFields = {
  model: z.string({ error: 'expected a name of GET /v1/models' }).min(1),
  stream: z.boolean().nullish(),
  stream_options: z.object({ include_usage: z.boolean().nullish() }).nullish(),
  n: z.number().int().positive().nullish(),
  best_of: z.number().int().positive().nullish(),
  seed: z.number().int().nullish(),
  stop: z
    .union([stopText, z.array(stopText).max(MAX_STOPS)], {
      error: `expected text or a list of up to ${MAX_STOPS} texts, none of them empty`,
    })
    .nullish(),
  stop_token_ids: z.array(z.number().int().nonnegative()).max(MAX_STOPS).nullish(),
  max_tokens: z.number().int().nonnegative().nullish(),
  temperature: z.number().min(0).max(2).nullish(),
  top_p: share.nullish(),
  top_k: z.number().int().min(-1).nullish(),
  min_p: share.nullish(),
  repetition_penalty: z.number().positive().nullish(),
  frequency_penalty: penalty.nullish(),
  presence_penalty: penalty.nullish(),
  logit_bias: z.record(z.string(), z.number().min(-100).max(100)).nullish(),
}

const common = z.object(commonFields)
export type CommonFields = z.infer<typeof common>

type Test = (value: unknown) => boolean
const is =
  (...values: unknown[]): Test =>
  (value) =>
    values.includes(value)
const empty: Test = (value) => Array.isArray(value) && value.length === 0
const never: Test = () => false

/**
 * Known fields that this server does not do, each with the values that ask for nothing. Null and
 * absence always do. Other fields that are not known are ignored, as OpenAI's `user` and `metadata`.
 */
const refused: Readonly<Record<string, Test>> = {
  tools: empty,
  tool_choice: is('none', 'auto'),
  functions: empty,
  function_call: is('none', 'auto'),
  response_format: (value) => (value as { type?: unknown }).type === 'text',
  modalities: (value) => Array.isArray(value) && value.length === 1 && value[0] === 'text',
  audio: never,
  web_search_options: never,
  reasoning_effort: is('none'),
  verbosity: is('medium'),
  suffix: is(''),
  // vLLM's.
  use_beam_search: is(false),
  length_penalty: is(1),
  early_stopping: is(false),
  min_tokens: is(0),
  ignore_eos: is(false),
  bad_words: empty,
  allowed_token_ids: never,
  include_stop_str_in_output: is(false),
  skip_special_tokens: is(true),
  spaces_between_special_tokens: is(true),
  add_special_tokens: never,
  add_generation_prompt: is(true),
  continue_final_message: is(false),
  chat_template: never,
  documents: empty,
  truncate_prompt_tokens: never,
  prompt_logprobs: never,
  prompt_embeds: never,
  logits_processors: empty,
  structured_outputs: never,
  guided_json: never,
  guided_regex: never,
  guided_choice: never,
  guided_grammar: never,
  // llama.cpp's.
  grammar: is(''),
  json_schema: never,
  mirostat: is(0),
  typical_p: is(1),
}

/** The checked fields of a request. Throws a 400 that names the first one which cannot be followed. */
export function readFields<T extends z.ZodType<CommonFields>>(
  schema: T,
  body: Readonly<Record<string, unknown>>,
): z.infer<T> {
  for (const [name, harmless] of Object.entries(refused)) {
    const value = body[name]
    if (value === undefined || value === null || harmless(value)) continue
    throw badRequest(`${name}: not supported by this server`, name, 'unsupported_parameter')
  }
  const fields = validate(schema, body, 'request')
  if (fields.stream_options && !fields.stream) {
    throw badRequest('stream_options: expected stream to be true beside it', 'stream_options')
  }
  return fields
}
