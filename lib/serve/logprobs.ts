// Log-probabilities as OpenAI's two routes write them.
import type { TokenProbability } from '../engine/engine-types.js'
import type { Tokenizer } from '../tokenizer/index.js'

/** JSON has no infinity; vLLM writes the same. */
const LEAST = -9999

export interface ChatLogprob {
  token: string
  bytes: number[]
  logprob: number
}

export interface ChatTokenLogprobs extends ChatLogprob {
  top_logprobs: ChatLogprob[]
}

/** The arrays of `logprobs` in a text completion, one entry a token. */
export interface CompletionLogprobs {
  tokens: string[]
  token_logprobs: (number | null)[]
  top_logprobs: (Record<string, number> | null)[]
  text_offset: number[]
}

function finite(logProb: number): number {
  return Number.isNaN(logProb) ? LEAST : Math.max(logProb, LEAST)
}

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** A token as text; one that holds a part of a character as OpenAI writes it: `bytes:\xe2\x82`. */
export function tokenText(bytes: Uint8Array): string {
  try {
    return strict.decode(bytes)
  } catch {
    return `bytes:${Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')}`
  }
}

function chatLogprob({ token, logProb }: TokenProbability, tokenizer: Tokenizer): ChatLogprob {
  const bytes = tokenizer.tokenBytes(token)
  return { token: tokenText(bytes), bytes: [...bytes], logprob: finite(logProb) }
}

export function chatLogprobs(
  chosen: TokenProbability,
  top: readonly TokenProbability[],
  tokenizer: Tokenizer,
): ChatTokenLogprobs {
  const top_logprobs = top.map((entry) => chatLogprob(entry, tokenizer))
  return { ...chatLogprob(chosen, tokenizer), top_logprobs }
}

/** Writes a choice's entries and keeps their places in its text, in characters. */
export class CompletionLogprobWriter {
  private readonly text = new TextDecoder('utf-8', { ignoreBOM: true })
  private offset = 0
  private entries = none()

  constructor(private readonly tokenizer: Tokenizer) {}

  /** `top` undefined: it is not known. The chosen token is always among those reported. */
  add(chosen: TokenProbability, top: readonly TokenProbability[] | undefined): void {
    const bytes = this.tokenizer.tokenBytes(chosen.token)
    const own = tokenText(bytes)
    const known = !Number.isNaN(chosen.logProb)
    this.entries.tokens.push(own)
    this.entries.token_logprobs.push(known ? finite(chosen.logProb) : null)
    this.entries.top_logprobs.push(known && top ? this.ranked(chosen, own, top) : null)
    this.entries.text_offset.push(this.offset)
    if (this.tokenizer.isSpecial(chosen.token)) return
    for (const _ of this.text.decode(bytes, { stream: true })) this.offset++
  }

  /** The entries since the last call. */
  take(): CompletionLogprobs {
    const { entries } = this
    this.entries = none()
    return entries
  }

  private ranked(
    chosen: TokenProbability,
    own: string,
    top: readonly TokenProbability[],
  ): Record<string, number> {
    const ranked = top.map(({ token, logProb }): [string, number] => [
      tokenText(this.tokenizer.tokenBytes(token)),
      finite(logProb),
    ])
    return Object.fromEntries([...ranked, [own, finite(chosen.logProb)]])
  }
}

function none(): CompletionLogprobs {
  return { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] }
}
