// From prompts to text: encodes, decodes on the native side, and makes text of the tokens.
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { encodeOpen } from '../data/encode-row.js'
import { S2FTError } from '../errors.js'
import type { Model } from '../model/model.js'
import { checkTokens } from '../model/samples.js'
import type {
  ChatMessage,
  GenerateBatchOptions,
  GenerateEvent,
  GenerateOptions,
  GenerateResult,
  Prompt,
} from '../model/types.js'
import { show } from '../model/validate.js'
import type { Tokenizer } from '../tokenizer/index.js'
import { decode } from './decode.js'
import { type GenerateSettings, generateBatchSettings, generateSettings } from './options.js'
import { Sequence } from './sequence.js'

function isTokens(prompt: Prompt): prompt is Int32Array | readonly number[] {
  return prompt instanceof Int32Array || (Array.isArray(prompt) && typeof prompt[0] !== 'object')
}

/** Ids of a text (with the special tokens before it) or of a conversation's template. */
export function encodePrompt(
  prompt: string | readonly ChatMessage[],
  tokenizer: Tokenizer,
): number[] {
  if (typeof prompt === 'string') return encodeOpen(tokenizer, prompt)
  const text = tokenizer.applyChatTemplate(prompt, { addGenerationPrompt: true })
  return tokenizer.encode(text, { addSpecialTokens: false })
}

async function endTokens(
  model: Model,
  tokenizer: Tokenizer | undefined,
  settings: GenerateSettings,
): Promise<ReadonlySet<number>> {
  const own = tokenizer?.eosTokenIds ?? (await configuredEnd(model))
  return new Set([...own, ...settings.stopTokenIds])
}

/** generation_config.json's end tokens win over config.json's, as in transformers. */
async function configuredEnd(model: Model): Promise<number[]> {
  try {
    const text = await readFile(join(model.directory, 'generation_config.json'), 'utf8')
    const { eos_token_id } = JSON.parse(text) as { eos_token_id?: unknown }
    const ids = [eos_token_id].flat().filter((id) => Number.isInteger(id)) as number[]
    if (ids.length > 0) return ids
  } catch {
    // Without a readable generation_config.json the model's own setting counts.
  }
  return model.config.eosTokenIds
}

async function tokenizerFor(
  model: Model,
  prompts: readonly Prompt[],
  settings: GenerateSettings,
): Promise<Tokenizer | undefined> {
  const needed = settings.stop.length > 0 || prompts.some((prompt) => !isTokens(prompt))
  const present = await stat(join(model.directory, 'tokenizer.json')).catch(() => undefined)
  return needed || present ? model.tokenizer() : undefined
}

async function sequences(
  model: Model,
  prompts: readonly Prompt[],
  settings: GenerateSettings,
): Promise<Sequence[]> {
  const tokenizer = await tokenizerFor(model, prompts, settings)
  const ends = await endTokens(model, tokenizer, settings)
  return prompts.map((prompt, index) => {
    if (typeof prompt !== 'string' && !isTokens(prompt) && !Array.isArray(prompt)) {
      throw new S2FTError(
        'INVALID_ARGUMENT',
        `prompt: expected token ids, text or messages, found ${show(prompt)}`,
      )
    }
    const ids = isTokens(prompt) ? prompt : encodePrompt(prompt, tokenizer!)
    const tokens = checkTokens(ids, model.config.native.vocabSize, 'prompt')
    return new Sequence(index, tokens, settings, ends, tokenizer?.stream())
  })
}

export async function* generateTokens(
  model: Model,
  prompt: Prompt,
  options: GenerateOptions,
): AsyncGenerator<GenerateEvent, GenerateResult> {
  const settings = generateSettings(options)
  const handle = model.native()
  const [sequence] = await sequences(model, [prompt], settings)
  for await (const { token, text, logProb } of decode(handle, [sequence!], 1, settings.signal)) {
    yield { token, text, logProb }
  }
  return sequence!.result()
}

export async function generateBatchTexts(
  model: Model,
  prompts: readonly Prompt[],
  options: GenerateBatchOptions,
): Promise<GenerateResult[]> {
  const { slots, ...settings } = generateBatchSettings(options)
  const handle = model.native()
  const all = await sequences(model, prompts, settings)
  for await (const { sequence } of decode(handle, all, slots, settings.signal)) {
    if (sequence.finished) options.onResult?.(sequence.index, sequence.result())
  }
  return all.map((sequence) => sequence.result())
}
