// A loaded model: the handle that scoring, generation, adapters and training hang on.
// It owns the native model, whose weights live outside the JavaScript heap.
import { stat } from 'node:fs/promises'
import type { Adapter } from '../adapter/adapter.js'
import { Fusion } from '../adapter/fusion.js'
import type { FuseOptions, FuseResult } from '../adapter/types.js'
import { generateBatchTexts, generateTokens } from '../engine/generate.js'
import { S2FTError } from '../errors.js'
import type { DType, NativeModel, Quantization } from '../native/binding.js'
import { native } from '../native/load.js'
import { Tokenizer } from '../tokenizer/index.js'
import { readModelConfig } from './config.js'
import { checkpointDtype, weightFiles } from './files.js'
import { loadOptions } from './options.js'
import { checkBatch, checkTokens, trainedTokens } from './samples.js'
import { saveModel } from './save.js'
import type {
  Device,
  GenerateBatchOptions,
  GenerateEvent,
  GenerateOptions,
  GenerateResult,
  LoadOptions,
  ModelConfig,
  Prompt,
  SampleInput,
  SaveOptions,
  Tokens,
} from './types.js'

/** What a model knows of the trainer that holds its weights. */
interface Training {
  readonly idle: boolean
  detach(): Promise<void>
  dispose(): Promise<void>
}

/** Something that runs requests over a model, which may not change under it. */
interface Serving {
  dispose(): Promise<void>
}

export class Model {
  private disposed = false
  private loadedTokenizer: Promise<Tokenizer> | undefined
  private baseFingerprint: Promise<string> | undefined
  private readonly fusion: Fusion
  /** @internal The trainer that holds the weights, if any. */
  readonly trainers = new Set<Training>()
  private readonly servings = new Set<Serving>()

  private constructor(
    private readonly handle: NativeModel,
    /** Where the model was loaded from, as given. */
    readonly directory: string,
    readonly config: ModelConfig,
    readonly device: Device,
    readonly dtype: DType,
    /** How the blocks' linear weights are stored, when not as `dtype`. */
    readonly quantization: Quantization | undefined,
    /** CPUs in use; part of what makes a run repeatable bit by bit. */
    readonly threads: number,
    /**
     * What multiplies: on a CPU how bf16 weights are, as asked for or measured at loading
     * ('native' or 'widen'); on CUDA the library and the device's generation.
     */
    readonly arithmetic: string,
  ) {
    this.fusion = new Fusion(
      handle,
      config.native,
      () => this.fingerprint(),
      () => this.requireUnserved(),
    )
  }

  /**
   * Loads a Hugging Face directory: config.json and model.safetensors, or shards with their
   * index. Throws INVALID_CONFIG, UNSUPPORTED_MODEL, CORRUPT_FILE, SHAPE_MISMATCH, IO,
   * DEVICE_UNAVAILABLE, each naming file and field or tensor.
   */
  static async load(directory: string, options: LoadOptions = {}): Promise<Model> {
    const { device, dtype, quantize, threads, arithmetic } = loadOptions(options)
    const found = await stat(directory).catch(() => undefined)
    if (!found?.isDirectory()) {
      throw new S2FTError('IO', `expected a model directory at ${directory}, found none`)
    }
    const config = await readModelConfig(directory)
    const files = await weightFiles(directory)
    const stored = dtype === 'auto' ? await checkpointDtype(files[0]!) : dtype
    const handle = await native().loadModel({
      config: config.native,
      files,
      dtype: stored,
      quantize,
      device,
      threads,
      arithmetic,
    })
    const kept = quantize === 'none' ? undefined : quantize
    const { threads: used, arithmetic: measured, device: place } = handle
    return new Model(handle, directory, config, place, stored, kept, used, measured)
  }

  /** Native bytes of the weights. */
  get bytes(): number {
    return this.native().bytes
  }

  /** Number of weights. */
  get parameters(): number {
    return this.native().parameters
  }

  /** @internal The handle, for the package's own classes. Throws DISPOSED. */
  native(): NativeModel {
    if (this.disposed) {
      throw new S2FTError('DISPOSED', `the model of ${this.directory} was disposed`)
    }
    return this.handle
  }

  /** The tokenizer beside the weights, loaded on first use. Throws IO when there is none. */
  tokenizer(): Promise<Tokenizer> {
    this.loadedTokenizer ??= Tokenizer.load(this.directory)
    return this.loadedTokenizer
  }

  /** Hash of the base weights (hex): adapters name their base by it. */
  fingerprint(): Promise<string> {
    this.baseFingerprint ??= this.native().fingerprint()
    return this.baseFingerprint
  }

  /** @internal Full fine-tuning changed the base. */
  forgetFingerprint(): void {
    this.baseFingerprint = undefined
  }

  /** @internal Throws BUSY while another trainer or an engine holds the weights. */
  startTraining(trainer: Training): void {
    this.requireUnserved()
    if (this.trainers.size > 0) {
      throw new S2FTError('BUSY', 'the model is held by another trainer: dispose that one first')
    }
    this.trainers.add(trainer)
  }

  /** @internal Nothing may change the weights until stopServing(). Throws BUSY, DISPOSED. */
  startServing(serving: Serving): void {
    this.native()
    if (this.trainers.size > 0) {
      throw new S2FTError('BUSY', 'the model is held by a trainer: dispose that one first')
    }
    this.servings.add(serving)
  }

  /** @internal */
  stopServing(serving: Serving): void {
    this.servings.delete(serving)
  }

  /** @internal Whether something fused edits the residual stream (LoReFT). */
  get editsStream(): boolean {
    return this.fusion.editsStream
  }

  private requireUnserved(): void {
    if (this.servings.size > 0) {
      throw new S2FTError('BUSY', 'the model is held by an engine: dispose that one first')
    }
  }

  /** @internal Training may not start from weights that unfuse() would overwrite. */
  requireUnfused(): void {
    if (this.fusion.count > 0) {
      throw new S2FTError(
        'BUSY',
        `expected a model without fused adapters to train, found ${this.fusion.count}: unfuse first`,
      )
    }
  }

  /** Adapters are added to base weights, so a trainer takes its changes out first. */
  private async detachTraining(): Promise<void> {
    for (const trainer of this.trainers) {
      if (!trainer.idle) {
        throw new S2FTError('BUSY', 'the model is being trained: wait for the step in flight')
      }
      await trainer.detach()
    }
  }

  /**
   * Scores of the next token at every position: [tokens, vocab], row after row. To a LoReFT adapter
   * all tokens are the prompt; scoreBatch() tells it a prompt by labels.
   */
  async logits(tokens: Tokens): Promise<Float32Array> {
    return this.native().logits(checkTokens(tokens, this.config.native.vocabSize))
  }

  /** log p(tokens[i + 1] | tokens[..i]) at [i]; one value fewer than tokens. */
  async logProbs(tokens: Tokens): Promise<Float32Array> {
    const [scores] = await this.scoreBatch([{ tokens }])
    return scores!
  }

  /**
   * For each sample, log p(labels[i + 1] | tokens[..i]) at [i], 0 where that label is -100; one
   * value fewer than tokens. With `candidates`, a list of tokens for each sample,
   * log p(candidate | tokens) of each follows in its row.
   */
  async scoreBatch(
    samples: readonly SampleInput[],
    candidates?: readonly Tokens[],
  ): Promise<Float32Array[]> {
    const { vocabSize } = this.config.native
    const batch = checkBatch(samples, vocabSize).map(({ tokens, labels }) => ({ tokens, labels }))
    if (candidates && candidates.length !== batch.length) {
      throw new S2FTError(
        'INVALID_ARGUMENT',
        `candidates: expected ${batch.length} lists, one a sample, found ${candidates.length}`,
      )
    }
    const lists = candidates?.map((list, i) =>
      list.length === 0 ? new Int32Array(0) : checkTokens(list, vocabSize, `candidates[${i}]`),
    )
    return this.native().score(batch, lists)
  }

  /** Mean negative log-likelihood over the trained tokens of all samples. */
  async loss(samples: readonly SampleInput[]): Promise<{ loss: number; tokens: number }> {
    const batch = checkBatch(samples, this.config.native.vocabSize)
    const tokens = batch.reduce((sum, { labels }) => sum + trainedTokens(labels), 0)
    if (tokens === 0) {
      throw new S2FTError(
        'INVALID_DATA',
        'samples: expected at least one trained token (a label other than -100 after the first)',
      )
    }
    let total = 0
    for (const row of await this.scoreBatch(batch)) for (const value of row) total -= value
    return { loss: total / tokens, tokens }
  }

  /**
   * Generates token by token from ids, text or a conversation. Returning early (break) frees the
   * cache. The generator's return value is the whole result.
   */
  generate(
    prompt: Prompt,
    options: GenerateOptions = {},
  ): AsyncGenerator<GenerateEvent, GenerateResult> {
    return generateTokens(this, prompt, options)
  }

  /** Generates to the end. */
  async generateText(prompt: Prompt, options: GenerateOptions = {}): Promise<GenerateResult> {
    const events = this.generate(prompt, options)
    for (;;) {
      const next = await events.next()
      if (next.done) return next.value
    }
  }

  /**
   * Generates for many prompts, `slots` at a time; results in the prompts' order. Sampling of
   * prompt i depends on the seed and i only, not on its neighbours.
   */
  generateBatch(
    prompts: readonly Prompt[],
    options: GenerateBatchOptions = {},
  ): Promise<GenerateResult[]> {
    return generateBatchTexts(this, prompts, options)
  }

  /**
   * Adds an adapter, times `weight`, to the base weights; a LoReFT adapter acts behind its layers
   * and leaves them as they are. Any number of adapters may be fused; the weights depend on which
   * are, to the bit, and not on the order. Tells which of those fused before change some of the
   * same weights. A trainer of this model takes its changes out first (its next step puts them in
   * again), so that they do not count twice. Throws BUSY while it is at work or an engine holds the
   * model, ADAPTER_MISMATCH
   * when the adapter was made for another base (unless `force`), SHAPE_MISMATCH, INVALID_ARGUMENT
   * when it is fused already or `weight` is not finite, UNSUPPORTED for DoRA and LoReFT with
   * another weight than 1.
   */
  async fuse(adapter: Adapter, options: FuseOptions = {}): Promise<FuseResult> {
    await this.readyForAdapter(adapter, 'fuse')
    return this.fusion.fuse(adapter, options)
  }

  private async readyForAdapter(adapter: Adapter, name: string): Promise<void> {
    this.native()
    if (!adapter?.info || !adapter.tensors) {
      throw new S2FTError(
        'INVALID_ARGUMENT',
        `${name}: expected an Adapter (of trainer.adapter() or Adapter.load()), found ${typeof adapter}`,
      )
    }
    await this.detachTraining()
  }

  /** Takes a fused adapter out again: the weights are the same bits as without it. */
  async unfuse(adapter: Adapter): Promise<void> {
    this.native()
    await this.fusion.unfuse(adapter)
  }

  /**
   * Makes `adapter` the only one that is fused, in one step that no other call of this model comes
   * between. What is fused stays when it does not fit. Throws as fuse does.
   */
  async switch(adapter: Adapter, options: FuseOptions = {}): Promise<void> {
    await this.readyForAdapter(adapter, 'switch')
    await this.fusion.switch(adapter, options)
  }

  /**
   * Writes a complete Hugging Face directory, or nothing: weights as they are now (fused
   * adapters included), config.json, tokenizer, chat template. Throws UNSUPPORTED while a LoReFT
   * adapter, which changes no weights, is fused or trained, and for a quantized model, which has
   * lost what a checkpoint holds.
   */
  async save(directory: string, options: SaveOptions = {}): Promise<void> {
    if (this.quantization) {
      throw new S2FTError(
        'UNSUPPORTED',
        `expected a model with all of its weights to save, found one quantized to ${this.quantization}: ` +
          'load it without quantization, fuse the adapter and save that',
      )
    }
    await saveModel(this.native(), this.directory, directory, options)
  }

  /** Waits for work in flight and frees the weights; its engines and trainers go first. */
  async dispose(): Promise<void> {
    for (const serving of this.servings) await serving.dispose()
    for (const trainer of this.trainers) await trainer.dispose()
    this.disposed = true
    await this.handle.dispose()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose()
  }
}
