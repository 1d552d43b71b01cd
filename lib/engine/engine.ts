// Serves many requests over one model at once, each with an adapter of its own or none. Owns the
// cache's pages, the adapters in memory, and the loop that runs pass after pass.
import { Adapter } from '../adapter/adapter.js'
import { S2FTError } from '../errors.js'
import type { Model } from '../model/model.js'
import { show } from '../model/validate.js'
import type { NativeDecoder } from '../native/decoder-binding.js'
import { AdapterStore } from './adapter-store.js'
import { type EngineSettings, engineSettings } from './engine-options.js'
import type {
  EngineAdapter,
  EngineEvent,
  EngineLike,
  EngineOptions,
  EngineRequest,
  EngineResult,
  EngineStats,
} from './engine-types.js'
import { Prompts } from './prompts.js'
import { RequestMaker } from './request.js'
import { Scheduler } from './scheduler.js'
import { TokenStream } from './token-stream.js'

export class Engine implements EngineLike {
  /** Tokens of a prompt and its answer together: the model's positions, or what the cache holds. */
  readonly contextLength: number
  private readonly scheduler: Scheduler
  private readonly store: AdapterStore
  private readonly maker: RequestMaker
  private requests = 0
  private looping: Promise<void> | undefined
  private wake: () => void = () => {}
  private disposing: Promise<void> | undefined

  private constructor(
    readonly model: Model,
    private readonly settings: EngineSettings,
    private readonly decoder: NativeDecoder,
    prompts: Prompts,
    /** Lets others change the model again. */
    private readonly letGo: () => void,
  ) {
    const { adapterMemory, pages, pageTokens } = settings
    const capacity = pages * pageTokens
    this.contextLength = Math.min(model.config.maxPositionEmbeddings, capacity)
    this.store = new AdapterStore(model, decoder, adapterMemory, () => this.wake())
    this.scheduler = new Scheduler(decoder, { ...settings, adapters: this.store })
    this.maker = new RequestMaker(model.config, prompts, this.store, capacity)
  }

  /**
   * Takes the cache's memory. The model stays as it is while an engine holds it: fuse(), unfuse(),
   * switch() and trainers throw BUSY until dispose(). What was fused before belongs to the base.
   * Throws INVALID_ARGUMENT for a bad option, BUSY while a trainer holds the model, OUT_OF_MEMORY.
   */
  static async create(model: Model, options: EngineOptions = {}): Promise<Engine> {
    const settings = engineSettings(options, model.config, model.dtype)
    // LoReFT's edits depend on where a prompt ends: equal beginnings are not equal in the cache.
    if (model.editsStream) settings.prefixCache = false
    const holder = { dispose: async () => {} }
    const letGo = () => model.stopServing(holder)
    model.startServing(holder)
    try {
      const prompts = await Prompts.of(model)
      const decoder = await model.native().createDecoder(settings.pages, settings.pageTokens)
      const engine = new Engine(model, settings, decoder, prompts, letGo)
      holder.dispose = () => engine.dispose()
      return engine
    } catch (error) {
      letGo()
      throw error
    }
  }

  /**
   * Yields each token as it is sampled and returns the result. The request begins with the first
   * next(), which throws INVALID_ARGUMENT for a bad request, ADAPTER_MISMATCH for an unknown
   * adapter, OVERLOADED for a full queue, DISPOSED. return() ends it at once, also while a token is
   * awaited.
   */
  generate(request: EngineRequest): AsyncGenerator<EngineEvent, EngineResult> {
    return new TokenStream(async (stream) => {
      this.check()
      const checked = await this.maker.check(request)
      this.check()
      this.refuseOverload()
      const made = this.maker.make(checked, stream, () => this.wake())
      this.requests++
      this.scheduler.submit(made.job)
      this.looping ??= this.loop()
      this.wake()
      return made
    })
  }

  /**
   * Adds an adapter while requests run. A directory is read and checked now, and again when it had
   * to give way to others. Throws INVALID_ARGUMENT for a name in use or an adapter larger than
   * `adapterMemory`, ADAPTER_MISMATCH and SHAPE_MISMATCH for one of another base, UNSUPPORTED for
   * kinds that only fuse() can serve (DoRA, LoReFT, sparse), what Adapter.load throws.
   */
  async addAdapter(name: string, source: string | Adapter): Promise<void> {
    this.check()
    if (typeof name !== 'string' || name === '') {
      throw new S2FTError('INVALID_ARGUMENT', `adapter: expected a name, found ${show(name)}`)
    }
    if (typeof source !== 'string' && !(source instanceof Adapter)) {
      throw new S2FTError(
        'INVALID_ARGUMENT',
        `adapter ${show(name)}: expected a directory or an Adapter, found ${show(source)}`,
      )
    }
    await this.store.add(name, source)
  }

  /** Requests that use it go on; new ones are refused. Throws ADAPTER_MISMATCH for an unknown name. */
  async removeAdapter(name: string): Promise<void> {
    this.check()
    await this.store.remove(name)
  }

  adapters(): readonly EngineAdapter[] {
    return this.store.list()
  }

  stats(): EngineStats {
    const { running, waiting, pool, totals } = this.scheduler
    return {
      running: running.length,
      waiting: waiting.length,
      pages: { total: pool.count, used: pool.used, cached: pool.cached },
      adapters: this.store.stats(),
      totals: { requests: this.requests, ...totals },
    }
  }

  /** Ends every request with DISPOSED, waits for the pass in flight and frees the cache. */
  dispose(): Promise<void> {
    this.disposing ??= (async () => {
      this.wake()
      await this.looping
      await this.scheduler.stop(new S2FTError('DISPOSED', 'the engine was disposed'))
      await this.decoder.dispose()
      this.letGo()
    })()
    return this.disposing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose()
  }

  private check(): void {
    if (this.disposing) throw new S2FTError('DISPOSED', 'the engine was disposed')
  }

  private refuseOverload(): void {
    const { maxQueue, maxSequences } = this.settings
    const { running, waiting } = this.scheduler
    if (waiting.length < maxQueue + maxSequences - running.length) return
    throw new S2FTError(
      'OVERLOADED',
      `expected at most ${maxQueue} waiting requests, found ${waiting.length} beside ${running.length} that run`,
      { details: { running: running.length, waiting: waiting.length } },
    )
  }

  private async loop(): Promise<void> {
    try {
      while (this.scheduler.busy && !this.disposing) {
        const woken = new Promise<void>((resolve) => {
          this.wake = resolve
        })
        const ran = await this.scheduler.step()
        if (!ran && this.scheduler.busy && !this.disposing) await woken
      }
    } catch (error) {
      await this.scheduler.stop(error)
    } finally {
      this.looping = undefined
    }
  }
}
