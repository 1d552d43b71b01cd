// From a request to a job: checks, limits, and what its reader gets.
import { S2FTError } from '../errors.js'
import type { ModelConfig } from '../model/types.js'
import type { TextStream } from '../tokenizer/index.js'
import type { AdapterStore } from './adapter-store.js'
import { type RequestSettings, requestSettings } from './engine-options.js'
import type { EngineRequest, EngineResult } from './engine-types.js'
import { Job } from './job.js'
import type { Prompts } from './prompts.js'
import { Sequence } from './sequence.js'
import type { RunningRequest, TokenStream } from './token-stream.js'

const DEFAULT_NEW_TOKENS = 256

export interface CheckedRequest {
  settings: RequestSettings & { maxNewTokens: number }
  prompt: Int32Array
  text: TextStream | undefined
}

export class RequestMaker {
  constructor(
    private readonly config: ModelConfig,
    private readonly prompts: Prompts,
    private readonly store: AdapterStore,
    /** Tokens that the cache holds. */
    private readonly capacity: number,
  ) {}

  /** Throws INVALID_ARGUMENT naming the field, IO where text has no tokenizer. */
  async check(request: EngineRequest): Promise<CheckedRequest> {
    const settings = requestSettings(request, this.config.native.vocabSize)
    const prompt = await this.prompts.tokens(request.prompt)
    const positions = this.config.maxPositionEmbeddings
    const [most, what] =
      positions <= this.capacity
        ? [positions, "the model's positions"]
        : [this.capacity, 'what the cache holds']
    const room = most - prompt.length
    const { maxNewTokens = Math.min(DEFAULT_NEW_TOKENS, room) } = settings
    if (room < 1 || maxNewTokens > room) {
      const asked = room < 1 ? '' : ` and maxNewTokens of ${maxNewTokens}`
      throw new S2FTError(
        'INVALID_ARGUMENT',
        `request: expected prompt and answer within ${most} tokens (${what}), ` +
          `found a prompt of ${prompt.length} tokens${asked}`,
        { details: { limit: most, promptTokens: prompt.length } },
      )
    }
    const text = await this.prompts.stream(settings.stop)
    return { settings: { ...settings, maxNewTokens }, prompt, text }
  }

  /** Throws ADAPTER_MISMATCH for an unknown adapter. `onAbort` is called when it is to end early. */
  make(
    checked: CheckedRequest,
    stream: TokenStream,
    onAbort: () => void,
  ): RunningRequest & { job: Job } {
    const { settings, prompt, text } = checked
    const { signal, promptLogprobs } = settings
    const ends = this.prompts.ends(settings.stopTokenIds)
    const adapter =
      settings.adapter === undefined ? undefined : this.store.acquire(settings.adapter)
    const sequence = new Sequence(0, prompt, settings, ends, text)
    let over = () => {}
    const ended = new Promise<void>((resolve) => {
      over = resolve
    })
    const abort = () => {
      job.aborted = true
      onAbort()
    }
    const job = new Job({
      ...{ sequence, adapter, promptLogprobs },
      onToken: (event) => stream.push(event),
      onEnd: (error) => {
        signal?.removeEventListener('abort', abort)
        if (adapter) this.store.release(adapter)
        stream.end(error === undefined ? { result: resultOf(job) } : { error })
        over()
      },
    })
    if (signal?.aborted) job.aborted = true
    signal?.addEventListener('abort', abort, { once: true })
    return { job, ended, abort }
  }
}

function resultOf({ options, cachedTokens, promptLogProbs }: Job): EngineResult {
  const { sequence } = options
  return {
    ...sequence.result(),
    promptTokens: sequence.prompt.length,
    cachedTokens: cachedTokens ?? 0,
    ...(promptLogProbs && { promptLogProbs }),
  }
}
