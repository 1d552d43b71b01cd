// The public face of training: single steps, gradients, whole runs.
import type { Adapter } from '../adapter/adapter.js'
import { S2FTError } from '../errors.js'
import type { Model } from '../model/model.js'
import { checkBatch, trainedTokens } from '../model/samples.js'
import type { SampleInput, SourcedSample } from '../model/types.js'
import type { NativeMemoryPlan } from '../native/binding.js'
import { evaluateSamples, type PreparedData, prepareData } from './data.js'
import { fitRun } from './fit.js'
import { makeAdapter } from './make-adapter.js'
import { type TrainerSettings, trainerSettings } from './options.js'
import { learningRateAt, warmupSteps } from './schedule.js'
import { parameterName, Session } from './session.js'
import type { FitOptions, StepResult, TrainEvent, TrainerOptions, TrainingData } from './types.js'

export class Trainer {
  /** The options with their defaults. */
  readonly options: Readonly<TrainerSettings>
  private readonly session: Session
  private steps = 0
  private fitting = false
  private evaluation: Promise<PreparedData> | undefined

  /**
   * Checks the options; the engine's part is made on first use. A trainer keeps its model alive
   * and is the only one that trains it until it is disposed.
   */
  constructor(
    readonly model: Model,
    options: TrainerOptions,
  ) {
    this.options = Object.freeze(trainerSettings(options))
    this.session = new Session(model, this.options)
  }

  /** Steps done. */
  get globalStep(): number {
    return this.steps
  }

  /**
   * One optimizer step. A flat list is one micro-batch; a list of lists accumulates gradients over
   * micro-batches. The loss is normalised by all trained tokens, and the schedule advances.
   * Throws NOT_FINITE (weights untouched), CANCELLED, BUSY while fit() runs.
   */
  async step(
    samples: readonly SampleInput[] | readonly (readonly SampleInput[])[],
  ): Promise<StepResult> {
    if (this.fitting) throw new S2FTError('BUSY', 'fit() is running: it takes the steps itself')
    const nested = Array.isArray(samples[0])
    const given = (nested ? samples : [samples]) as readonly (readonly SampleInput[])[]
    const { vocabSize } = this.model.config.native
    const batches = given.map((batch, i) =>
      checkBatch(batch, vocabSize, nested ? `samples[${i}]` : 'samples'),
    )
    const { maxSteps, lrScheduler, learningRate, warmupSteps: warmup, warmupRatio } = this.options
    const totalSteps = maxSteps > 0 ? maxSteps : undefined
    const rate = learningRateAt(
      {
        name: lrScheduler,
        learningRate,
        warmupSteps: warmupSteps(warmup, warmupRatio, totalSteps),
        totalSteps,
      },
      this.steps,
    )
    const { stopAsked: _, ...result } = await this.takeStep(batches, rate)
    return result
  }

  /** @internal `expectedTokens`: trained ones of all ranks. */
  async takeStep(
    batches: readonly (readonly SourcedSample[])[],
    learningRate: number,
    expectedTokens?: number,
  ): Promise<StepResult & { stopAsked: boolean }> {
    // A rank may have no part in a step.
    if (
      !this.options.job &&
      !batches.some((batch) => batch.some(({ labels }) => trainedTokens(labels) > 0))
    ) {
      throw new S2FTError(
        'INVALID_DATA',
        'samples: expected at least one trained token (a label other than -100 after the first)',
      )
    }
    const result = await this.session.step(batches, learningRate, this.steps + 1, expectedTokens)
    this.steps++
    return { step: this.steps, learningRate, ...result }
  }

  /**
   * Gradients of the batch's mean loss, by module (`<module>.lora_A` and `.lora_B` for LoRA,
   * `.lora_magnitude_vector` beside them for DoRA).
   * Slices: [s, in] or [out, s], ordered as the adapter's s2ft_index; sparse: [n], as sparse_index.
   * GaLore: the projected gradients of linear layers. LoReFT: `<layer>.loreft_R` (its part in the
   * tangent space), `.loreft_W` and `.loreft_b`.
   */
  async gradients(samples: readonly SampleInput[]): Promise<Map<string, Float32Array>> {
    const batch = checkBatch(samples, this.model.config.native.vocabSize)
    const plain = batch.map(({ tokens, labels }) => ({ tokens, labels }))
    return this.session.train(async (trainer) => {
      await this.session.choose(trainer, [plain])
      const names = trainer.parameters().map(parameterName)
      const { gradients } = await trainer.gradients(plain)
      return new Map(names.map((name, i) => [name, gradients[i]!]))
    })
  }

  /** @internal Bytes at the peak of a micro-batch of at most this many (trained) tokens and samples. */
  plan(tokens: number, trained: number, samples: number): Promise<NativeMemoryPlan> {
    return this.session.run((trainer) => trainer.plan(tokens, trained, samples))
  }

  /** What was trained so far. Throws UNSUPPORTED for full(), lisa() and galore(). */
  adapter(): Promise<Adapter> {
    return makeAdapter(this.session)
  }

  /** Mean negative log-likelihood of the weights as they are now. */
  async evaluate(data: TrainingData): Promise<{ loss: number; tokens: number }> {
    const { samples } = await prepareData(this.model, data, this.options)
    return this.evaluatePrepared(samples)
  }

  /** @internal */
  evaluatePrepared(samples: readonly SourcedSample[]): Promise<{ loss: number; tokens: number }> {
    // Each batch queues by itself, so that an evaluation can be disposed midway.
    const score = (batch: SourcedSample[]) => this.session.read(() => this.model.scoreBatch(batch))
    return evaluateSamples(this.model, samples, this.options, score)
  }

  /** @internal The evaluation data, encoded once. */
  evaluationData(): Promise<PreparedData> | undefined {
    const { evalDataset } = this.options
    if (evalDataset) this.evaluation ??= prepareData(this.model, evalDataset, this.options)
    return this.evaluation
  }

  /**
   * Trains on samples or a Dataset, yielding events; see TrainEvent. Leaving the loop early stops
   * after the step in flight without a checkpoint; `signal` stops with one.
   *
   * Throws OUT_OF_MEMORY before the first step when the plan does not fit, NOT_FINITE naming step
   * and sample, INVALID_ARGUMENT when a resumed run's options, data, model or machine differ, BUSY.
   */
  async *fit(data: TrainingData, options: FitOptions = {}): AsyncGenerator<TrainEvent, void> {
    if (this.fitting) throw new S2FTError('BUSY', 'fit() is running already')
    this.fitting = true
    try {
      yield* fitRun(this, this.session, data, options, (steps) => {
        this.steps = steps
      })
    } finally {
      this.fitting = false
    }
  }

  /** Stops the step in flight, which rejects with CANCELLED and leaves the weights untouched. */
  cancel(): void {
    this.session.cancel()
  }

  /** Waits for work in flight, then gives the model its base weights back; full, lisa and galore do not. */
  dispose(): Promise<void> {
    return this.session.dispose()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose()
  }
}
