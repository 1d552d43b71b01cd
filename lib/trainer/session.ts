// The native trainer behind a Trainer: made on first use, used by one operation at a time.
import { requireSameBase } from '../adapter/fusion.js'
import { S2FTError } from '../errors.js'
import { resolveMethod } from '../method/index.js'
import { calibrationShare, changesBase } from '../method/types.js'
import type { Model } from '../model/model.js'
import type { SourcedSample } from '../model/types.js'
import type { NativeParameter, NativeStepResult, NativeTrainer, Sample } from '../native/binding.js'
import { initialPlaces, initialValues } from './initial-values.js'
import type { TrainerSettings } from './options.js'

export class Session {
  private opening: Promise<NativeTrainer> | undefined
  private tail: Promise<unknown> = Promise.resolve()
  private disposing: Promise<void> | undefined
  private busy = 0
  private detached = false
  /** What trains is chosen by data that the trainer has not seen yet. */
  choicePending = false
  /** Fingerprint of the base, taken before training changes it. */
  baseFingerprint = ''

  constructor(
    readonly model: Model,
    readonly settings: TrainerSettings,
  ) {}

  get idle(): boolean {
    return this.busy === 0
  }

  /** Runs `work` after all earlier work. Throws DISPOSED. */
  async run<T>(work: (trainer: NativeTrainer) => Promise<T>): Promise<T> {
    this.check()
    const before = this.tail
    this.busy++
    const current = (async () => {
      await before.catch(() => {})
      this.opening ??= this.open()
      // A failed start can be tried again, e.g. after another trainer was disposed.
      const trainer = await this.opening.catch((error) => {
        this.opening = undefined
        throw error
      })
      return work(trainer)
    })()
    this.tail = current
    return current.finally(() => this.busy--)
  }

  /** As run(), for work that puts the tuned weights into the model. */
  train<T>(work: (trainer: NativeTrainer) => Promise<T>): Promise<T> {
    return this.run((trainer) => {
      this.model.requireUnfused()
      this.detached = false
      return work(trainer)
    })
  }

  /** As run(), for work that reads the model with the tuned weights in it. */
  read<T>(work: () => Promise<T>): Promise<T> {
    return this.run(() => {
      if (!this.detached) return work()
      throw new S2FTError(
        'INVALID_ARGUMENT',
        'expected the tuned weights in the model, found them taken out by fuse(): the next step ' +
          'puts them in again',
      )
    })
  }

  async step(
    microBatches: readonly (readonly SourcedSample[])[],
    learningRate: number,
    step: number,
    expectedTokens?: number,
  ): Promise<NativeStepResult> {
    const plain = withoutSources(microBatches)
    try {
      return await this.train(async (trainer) => {
        await this.choose(trainer, plain)
        return trainer.step(plain, learningRate, expectedTokens)
      })
    } catch (error) {
      throw located(error, microBatches, step)
    }
  }

  /** Chooses what trains by these samples where the method leaves that to data. */
  async calibrate(microBatches: readonly (readonly SourcedSample[])[]): Promise<void> {
    const plain = withoutSources(microBatches)
    await this.train((trainer) => this.choose(trainer, plain))
  }

  /** As calibrate(), for work that has the trainer already. */
  async choose(trainer: NativeTrainer, microBatches: Sample[][]): Promise<void> {
    if (!this.choicePending) return
    await trainer.calibrate(microBatches)
    this.choicePending = false
  }

  /** Stops the step in flight at the next layer; it rejects with CANCELLED. */
  cancel(): void {
    this.opening?.then(
      (trainer) => trainer.cancel(),
      () => {},
    )
  }

  /** Asks all ranks to stop after the step in flight: its result says so. */
  askStop(): void {
    this.opening?.then(
      (trainer) => trainer.askStop(),
      () => {},
    )
  }

  /** Takes the tuned weights out of the model; the next step puts them in again. */
  async detach(): Promise<void> {
    if (this.opening && !this.disposing && !changesBase(this.settings.method)) {
      await this.run(async (trainer) => {
        await trainer.detach()
        this.detached = true
      })
    }
  }

  /** Waits for work that was asked for before, then gives the native trainer back. */
  dispose(): Promise<void> {
    this.disposing ??= (async () => {
      await this.tail.catch(() => {})
      const trainer = await this.opening?.catch(() => undefined)
      await trainer?.dispose()
      this.model.trainers.delete(this)
      if (changesBase(this.settings.method) && trainer) this.model.forgetFingerprint()
    })()
    return this.disposing
  }

  private check(): void {
    if (this.disposing) throw new S2FTError('DISPOSED', 'the trainer was disposed')
  }

  private async open(): Promise<NativeTrainer> {
    const { model, settings } = this
    const method = resolveMethod(settings.method, model.config.native)
    model.requireUnfused()
    model.startTraining(this)
    try {
      this.baseFingerprint = await model.fingerprint()
      const adapter = settings.initialAdapter
      if (adapter) requireSameBase(adapter.info, this.baseFingerprint)
      const trainer = await model.native().createTrainer({
        method,
        beta1: settings.adamBeta1,
        beta2: settings.adamBeta2,
        epsilon: settings.adamEpsilon,
        weightDecay: settings.weightDecay,
        maxGradNorm: settings.maxGradNorm,
        recompute: settings.recompute,
        ...(settings.job && { job: settings.job.native }),
      })
      const byData = calibrationShare(settings.method) !== undefined
      this.choicePending = byData && !adapter
      if (!adapter) return trainer
      try {
        const { kind } = settings.method
        if (adapter.info.type === kind && (byData || kind === 'sparse')) {
          await trainer.setPlaces(initialPlaces(adapter, model.config.native, trainer.parameters()))
        }
        await trainer.setValues(initialValues(adapter, settings.method, trainer.parameters()))
        return trainer
      } catch (error) {
        await trainer.dispose()
        throw error
      }
    } catch (error) {
      model.trainers.delete(this)
      throw error
    }
  }
}

function withoutSources(microBatches: readonly (readonly SourcedSample[])[]): Sample[][] {
  return microBatches.map((batch) => batch.map(({ tokens, labels }) => ({ tokens, labels })))
}

/** Adds step and sample to the engine's NOT_FINITE, which knows places in the batch only. */
function located(
  error: unknown,
  microBatches: readonly (readonly SourcedSample[])[],
  step: number,
): unknown {
  if (!(error instanceof S2FTError) || error.code !== 'NOT_FINITE') return error
  const microBatch = Number(error.details?.microBatch)
  const sample = Number(error.details?.sample)
  // A calibration's gradient names its module instead.
  if (Number.isNaN(sample)) return error
  const source = microBatches[microBatch]?.[sample]?.source
  const place = source ?? `sample ${sample} of micro-batch ${microBatch}`
  return new S2FTError('NOT_FINITE', `step ${step}, ${place}: ${error.message}`, {
    details: { ...error.details, step, ...(source === undefined ? {} : { source }) },
    cause: error,
  })
}

/** How users name a parameter: the module, with what it is where that is not its weight. */
export function parameterName({ module, kind }: NativeParameter): string {
  return kind === 'bias' || /^lora_|^loreft_/.test(kind) ? `${module}.${kind}` : module
}
