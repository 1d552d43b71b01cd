// What users pass to a Model and get back from it.
import type { DType, NativeModelConfig, Quantization, Sample } from '../native/binding.js'
import type { ChatMessage } from '../tokenizer/index.js'

export type { ChatMessage, Quantization }
export type Device = 'cpu' | 'cuda'
/** Architectures that can be loaded, by their `model_type`. */
export type ModelFamily = 'llama' | 'mistral' | 'qwen2' | 'qwen3'

/** Tokens as users have them: typed or plain. */
export type Tokens = Int32Array | readonly number[]

/** A training sample. labels[i] is the label of token i; -100 is not trained. */
export interface SampleInput {
  tokens: Tokens
  /** Absent: every token is trained. */
  labels?: Tokens
  /** Where the sample came from (`file:line`), named in errors. */
  source?: string
}

/** A checked sample that still knows where it came from. */
export interface SourcedSample extends Sample {
  source?: string
}

export interface LoadOptions {
  /** Default 'auto': the fastest device found. */
  device?: Device | 'auto'
  /** Storage of the weights. 'auto' (default): bf16 for BF16 checkpoints, else f32. */
  dtype?: DType | 'auto'
  /**
   * Stores the blocks' linear weights, which then cannot change, in 8 or 4 bits (docs/quantization.md).
   * Trains s2ft, lora and dora; cannot be saved. Default 'none'.
   */
  quantize?: Quantization | 'none'
  /** 0 (default): all CPUs of this process. */
  threads?: number
  /** What multiplies bf16 weights; 'auto' (default) measures. */
  arithmetic?: 'auto' | 'native' | 'widen'
}

export interface SaveOptions {
  /** Bytes, or '500MB', '5GB' (default). */
  maxShardSize?: number | string
  /** 'checkpoint' (default) keeps every tensor's element type. */
  dtype?: 'checkpoint' | 'f32' | 'bf16' | 'f16'
  /** Write into a directory that is not empty (its own model files are replaced). */
  overwrite?: boolean
}

/** config.json as read, validated, with what the engine needs. */
export interface ModelConfig {
  family: ModelFamily
  architecture: string
  native: NativeModelConfig
  maxPositionEmbeddings: number
  eosTokenIds: number[]
}

/** Token ids, text, or a conversation for the model's chat template. */
export type Prompt = Tokens | string | readonly ChatMessage[]

export interface GenerateOptions {
  /** Default 256. */
  maxNewTokens?: number
  /** 0 (default) is greedy. */
  temperature?: number
  /** 0 (default): no limit. */
  topK?: number
  /** Default 1. */
  topP?: number
  /** Default 0. */
  minP?: number
  /** Default 1. */
  repetitionPenalty?: number
  /** Default 0. The same seed gives the same text. */
  seed?: number
  /** Texts that end the generation; they are not part of the result. */
  stop?: string | readonly string[]
  /** Added to the model's own end-of-sequence tokens. */
  stopTokenIds?: readonly number[]
  signal?: AbortSignal
}

/**
 * One generated token. `text` is what became readable with it; it may be empty. The last event
 * may be the end-of-sequence token, which is not part of the result's tokens.
 */
export interface GenerateEvent {
  token: number
  text: string
  /** Natural log of the token's probability. */
  logProb: number
}

/** stop: an end-of-sequence token or stop text; length: maxNewTokens; abort: the signal. */
export type FinishReason = 'stop' | 'length' | 'abort'

export interface GenerateResult {
  text: string
  /** Without the end-of-sequence token. */
  tokens: Int32Array
  finishReason: FinishReason
}

export interface GenerateBatchOptions extends GenerateOptions {
  /** Sequences decoded at once; default 8. */
  slots?: number
  /** Called as each prompt finishes, in the order of finishing. */
  onResult?: (index: number, result: GenerateResult) => void
}
