// The native decoder: many sequences over one model, keys and values in pages.
import type { NativeAdapter } from './binding.js'

export interface NativeSampling {
  /** 0 is greedy. */
  temperature: number
  /** 0: no limit. */
  topK: number
  topP: number
  minP: number
  repetitionPenalty: number
  /** OpenAI's, of generated tokens. */
  frequencyPenalty: number
  presencePenalty: number
  /** Added to these tokens' logits. */
  biasTokens: Int32Array
  biasValues: Float32Array
  /** Likeliest tokens reported beside the sampled one. */
  top: number
}

export interface NativeSequence {
  sampling: NativeSampling
  /** Id of an added adapter; -1: the model alone. */
  adapter: number
  /** Tokens whose keys and values lie in `pages` already. */
  cached: Int32Array
  pages: Int32Array
  /** Tokens of the prompt, the cached ones included; later ones were generated. */
  prompt: number
}

export interface NativeDecodeRow {
  sequence: number
  /** Appended. */
  tokens: Int32Array
  /** Added to the sequence's own. */
  pages: Int32Array
  sample: boolean
  /** Uniform in [0, 1), decides the draw; the caller owns the generator. */
  random: number
  /** Asks for the log-probability of targets[i] after tokens[i]. */
  targets?: Int32Array
}

export interface NativeTokenProbability {
  token: number
  logProb: number
}

export interface NativeDecodedRow extends NativeTokenProbability {
  /** False where the model answered with no numbers; there is no token then. */
  finite: boolean
  top: NativeTokenProbability[]
  targetLogProbs: Float32Array
}

/** Autoregressive decoding. The caller deals out the pages; one may have several owners. */
export interface NativeDecoder {
  /** Answers its bytes. Throws ADAPTER_MISMATCH; UNSUPPORTED for what cannot run beside others. */
  addAdapter(id: number, adapter: NativeAdapter): Promise<number>
  /** Throws BUSY while a sequence uses it. */
  removeAdapter(id: number): Promise<void>
  open(id: number, sequence: NativeSequence): Promise<void>
  /** Its pages may be dealt out again. */
  close(id: number): Promise<void>
  /** One pass over the model. Throws INVALID_ARGUMENT; nothing is appended then. */
  pass(rows: NativeDecodeRow[]): Promise<NativeDecodedRow[]>
  dispose(): Promise<void>
}
