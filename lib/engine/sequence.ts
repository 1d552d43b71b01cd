// One sequence in decoding: its tokens, its text so far, and why it ended.
import type { FinishReason, GenerateEvent, GenerateResult } from '../model/types.js'
import type { NativeSampling } from '../native/decoder-binding.js'
import type { TextStream } from '../tokenizer/index.js'
import { Random } from './random.js'
import { StopText } from './stop-text.js'

/** What decides how tokens are drawn and when they end. */
export interface SequenceSettings {
  maxNewTokens: number
  temperature: number
  topK: number
  topP: number
  minP: number
  repetitionPenalty: number
  frequencyPenalty?: number
  presencePenalty?: number
  logitBias?: Readonly<Record<number, number>> | undefined
  seed: number
  stop: readonly string[]
  topLogprobs?: number
}

export class Sequence {
  finished: FinishReason | undefined
  private readonly tokens: number[] = []
  private text = ''
  private readonly random: Random
  private readonly stop: StopText

  /** Without a `stream` (no tokenizer) the text stays empty. */
  constructor(
    readonly index: number,
    readonly prompt: Int32Array,
    private readonly settings: SequenceSettings,
    private readonly endTokens: ReadonlySet<number>,
    private readonly stream: TextStream | undefined,
  ) {
    this.random = new Random(settings.seed, index)
    this.stop = new StopText(settings.stop)
  }

  /** Positions that the cache needs at most. */
  get capacity(): number {
    return this.prompt.length + this.settings.maxNewTokens
  }

  sampling(): NativeSampling {
    const { temperature, topK, topP, minP, repetitionPenalty, logitBias = {} } = this.settings
    const { frequencyPenalty = 0, presencePenalty = 0, topLogprobs: top = 0 } = this.settings
    return {
      ...{ temperature, topK, topP, minP, repetitionPenalty, frequencyPenalty, presencePenalty },
      biasTokens: Int32Array.from(Object.keys(logitBias), Number),
      biasValues: Float32Array.from(Object.values(logitBias)),
      top,
    }
  }

  /** The next uniform number, which decides a draw. */
  draw(): number {
    return this.settings.temperature > 0 ? this.random.next() : 0
  }

  /** Takes a sampled token. Sets `finished` when it ends the sequence. */
  accept(sampled: { token: number; logProb: number }): GenerateEvent {
    const { token, logProb } = sampled
    const ended = this.endTokens.has(token)
    let fresh = ''
    if (ended) {
      this.finished = 'stop'
    } else {
      this.tokens.push(token)
      const found = this.stop.push(this.stream?.push(token) ?? '')
      fresh = found.text
      if (found.stopped) this.finished = 'stop'
      else if (this.tokens.length >= this.settings.maxNewTokens) this.finished = 'length'
      if (found.stopped) {
        this.text += fresh
        return { token, text: fresh, logProb }
      }
    }
    if (this.finished) fresh += this.rest()
    this.text += fresh
    return { token, text: fresh, logProb }
  }

  /** Ends the sequence from outside; the text that was held back joins the result. */
  abort(): void {
    this.finished = 'abort'
    this.text += this.rest()
  }

  result(): GenerateResult {
    return {
      text: this.text,
      tokens: Int32Array.from(this.tokens),
      finishReason: this.finished ?? 'abort',
    }
  }

  private rest(): string {
    const last = this.stop.push(this.stream?.flush() ?? '')
    if (last.stopped) {
      this.finished = 'stop'
      return last.text
    }
    return last.text + this.stop.flush()
  }
}
