// From prompts to token ids, and what ends a generation: the tokenizer's part of decoding.
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { encodeOpen } from '../data/encode-row.js'
import { S2FTError } from '../errors.js'
import type { Model } from '../model/model.js'
import { checkTokens } from '../model/samples.js'
import type { ChatMessage, Prompt } from '../model/types.js'
import { show } from '../model/validate.js'
import type { TextStream, Tokenizer } from '../tokenizer/index.js'

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

export class Prompts {
  private constructor(
    private readonly model: Model,
    private readonly tokenizer: Tokenizer | undefined,
    private readonly endTokens: readonly number[],
  ) {}

  /** Of a model, which may have no tokenizer. */
  static async of(model: Model): Promise<Prompts> {
    const present = await stat(join(model.directory, 'tokenizer.json')).catch(() => undefined)
    const tokenizer = present && (await model.tokenizer())
    return new Prompts(model, tokenizer, tokenizer?.eosTokenIds ?? (await configuredEnd(model)))
  }

  /** Throws INVALID_ARGUMENT for a bad prompt, IO where text has no tokenizer. */
  async tokens(prompt: Prompt): Promise<Int32Array> {
    if (typeof prompt !== 'string' && !isTokens(prompt) && !Array.isArray(prompt)) {
      throw new S2FTError(
        'INVALID_ARGUMENT',
        `prompt: expected token ids, text or messages, found ${show(prompt)}`,
      )
    }
    const ids = isTokens(prompt) ? prompt : encodePrompt(prompt, await this.required())
    return checkTokens(ids, this.model.config.native.vocabSize, 'prompt')
  }

  ends(stopTokenIds: readonly number[]): ReadonlySet<number> {
    return new Set([...this.endTokens, ...stopTokenIds])
  }

  /** Makes text of tokens. Throws IO where stop texts need a tokenizer and there is none. */
  async stream(stop: readonly string[]): Promise<TextStream | undefined> {
    return (stop.length > 0 ? await this.required() : this.tokenizer)?.stream()
  }

  /** The tokenizer, or IO naming the file that lacks. */
  private async required(): Promise<Tokenizer> {
    return this.tokenizer ?? (await this.model.tokenizer())
  }
}
