// A whole training run, as a stream of events.
import { requireAgreement } from '../distributed/agreement.js'
import { exchangeOf } from '../distributed/exchange.js'
import { endFailedRun } from '../distributed/failure.js'
import { S2FTError } from '../errors.js'
import { calibrationShare } from '../method/types.js'
import type { NativeMemoryPlan } from '../native/binding.js'
import { native } from '../native/load.js'
import { RunBatches } from './batches.js'
import { trainingBudget } from './budget.js'
import { adapterFingerprint, dataFingerprint, prepareData, requirePrompts } from './data.js'
import { availableMemory } from './memory.js'
import { Progress } from './progress.js'
import { RunFiles } from './run-files.js'
import { learningRateAt, type Schedule, warmupSteps } from './schedule.js'
import type { Session } from './session.js'
import {
  machineDifferences,
  machineOf,
  requireSameMachine,
  requireSameRun,
  runSignature,
  sharedMachine,
  type TrainerState,
} from './state.js'
import type { Trainer } from './trainer.js'
import type { FitOptions, PlanEvent, TrainEvent, TrainingData } from './types.js'

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(2)} GB`
}

/** Throws OUT_OF_MEMORY with the plan's parts when the peak does not fit. */
function requireMemory(plan: NativeMemoryPlan, available: number): void {
  if (plan.total <= available) return
  const { weights, trainable, optimizer, activations, workspace, process } = plan
  const parts = Object.entries({ weights, trainable, optimizer, activations, workspace, process })
  throw new S2FTError(
    'OUT_OF_MEMORY',
    `expected a step to fit in ${gigabytes(available)}, found that it needs ` +
      `${gigabytes(plan.total)} (${parts.map(([name, bytes]) => `${name} ${gigabytes(bytes)}`).join(', ')}): ` +
      "lower batchSize or maxTokensPerBatch, or set recompute: 'block'",
    { details: { ...plan, available } },
  )
}

/** What is left to do for a run of several ranks when one fails; nothing before its first step. */
interface Rescue {
  checkpoint(): Promise<string | undefined>
}

/** @internal The events of Trainer.fit. `setStep` tells the trainer where a resumed run stands. */
export async function* fitRun(
  trainer: Trainer,
  session: Session,
  data: TrainingData,
  options: FitOptions,
  setStep: (step: number) => void,
): AsyncGenerator<TrainEvent, void> {
  const { job } = session.settings
  const rescue: Rescue = { checkpoint: async () => undefined }
  try {
    yield* train(trainer, session, data, options, setStep, rescue)
  } catch (error) {
    throw job ? await endFailedRun(job, error, () => rescue.checkpoint()) : error
  }
}

async function* train(
  trainer: Trainer,
  session: Session,
  data: TrainingData,
  { signal, resume, allowDifferentMachine = false }: FitOptions,
  setStep: (step: number) => void,
  rescue: Rescue,
): AsyncGenerator<TrainEvent, void> {
  const { model, settings } = session
  const { job } = settings
  const started = performance.now()
  const files = new RunFiles(session, settings.outputDir)
  const point = await files.resumePoint(resume)
  if (!point && trainer.globalStep > 0) {
    throw new S2FTError(
      'INVALID_ARGUMENT',
      `expected a trainer without steps, found ${trainer.globalStep}: a new run needs a new Trainer`,
    )
  }
  if (resume && !point) {
    const message = `no complete checkpoint in ${settings.outputDir}: starting from the beginning`
    yield { type: 'warning', message }
  }
  const { samples, warnings } = await prepareData(model, data, settings)
  requirePrompts(samples, settings)
  const evaluation = await trainer.evaluationData()
  for (const message of [...warnings, ...(evaluation?.warnings ?? [])]) {
    yield { type: 'warning', message }
  }
  const batches = new RunBatches(samples, settings)
  const { totalSteps } = batches
  const schedule: Schedule = {
    name: settings.lrScheduler,
    learningRate: settings.learningRate,
    warmupSteps: warmupSteps(settings.warmupSteps, settings.warmupRatio, totalSteps),
    totalSteps,
  }
  const largest = batches.largest()
  const { plan, parameters } = await session.run(async (native) => ({
    plan: await native.plan(largest.tokens, largest.trained, largest.samples),
    parameters: native.parameters(),
  }))
  const run = runSignature(model, settings, {
    initialAdapter: adapterFingerprint(settings.initialAdapter),
    baseFingerprint: session.baseFingerprint,
    data: dataFingerprint(samples),
    samples: samples.length,
    warmupSteps: schedule.warmupSteps,
    totalSteps,
  })
  const begin = { version: 1, step: 0, epoch: 0, stepInEpoch: 0, inputTokens: 0 } as const
  const state: TrainerState = {
    ...begin,
    ...point?.state,
    totalSteps,
    run,
    machine: machineOf(model, job?.size ?? 1),
  }
  const progress = new Progress(state, batches)
  if (job) {
    await requireAgreement(job, {
      version: native().version,
      ...run,
      ...sharedMachine(model),
      totalSteps,
      evalSteps: settings.evalSteps,
      evalData: evaluation ? dataFingerprint(evaluation.samples) : '',
      step: state.step,
    })
  }
  if (point) {
    requireSameRun(point.state, run, point.path)
    const differences = machineDifferences(point.state, model, job?.size ?? 1)
    if (!allowDifferentMachine) requireSameMachine(differences, point.path)
    for (const { message } of differences) yield { type: 'warning', message }
  }
  const available =
    settings.memoryLimit ??
    (plan.limit || availableMemory('/proc', '/sys/fs/cgroup', job?.hostSize))
  const planned: PlanEvent = {
    type: 'plan',
    ...plan,
    available,
    ...trainingBudget(model, settings.method, parameters),
    totalSteps,
    stepsPerEpoch: batches.stepsPerEpoch,
    samples: samples.length,
    step: state.step,
    ...(job && { distributed: exchangeOf(job, model, parameters) }),
  }
  requireMemory(plan, available)
  if (point) await files.restore(point)
  setStep(state.step)
  const before = state.step
  rescue.checkpoint = async () =>
    state.step > before ? files.checkpoint(state, true) : point?.path
  // With several ranks a wish to stop takes effect once all of them know of it.
  let stopAsked = false
  const askStop = () => session.askStop()
  if (job && signal?.aborted) askStop()
  if (job) signal?.addEventListener('abort', askStop)
  try {
    await files.openMetrics(point ? state.step : -1)
    yield planned
    const share = calibrationShare(settings.method)
    if (session.choicePending && share !== undefined) {
      await session.calibrate(batches.calibration(share))
    }
    const evaluate = async (): Promise<TrainEvent> => {
      const before = performance.now()
      const result = await trainer.evaluatePrepared(evaluation!.samples)
      const seconds = (performance.now() - before) / 1000
      return { type: 'eval', step: state.step, epoch: progress.epoch, ...result, seconds }
    }
    while (state.step < totalSteps && !(job ? stopAsked : signal?.aborted)) {
      const before = performance.now()
      const sentBefore = job?.native.bytesSent ?? 0
      const rate = learningRateAt(schedule, state.step)
      const { mine, tokens } = progress.next()
      const { stopAsked: stop, ...result } = await trainer.takeStep(mine, rate, tokens)
      stopAsked = stop
      const seconds = (performance.now() - before) / 1000
      progress.advance(result.inputTokens)
      const tokensPerSecond = result.inputTokens / seconds
      const { epoch } = progress
      const event: TrainEvent = {
        type: 'step',
        ...result,
        totalSteps,
        epoch,
        tokensPerSecond,
        seconds,
        ...(job && { bytesSent: job.native.bytesSent - sentBefore }),
      }
      const last = state.step >= totalSteps
      if (last || state.step % settings.loggingSteps === 0) await files.log(event)
      yield event
      if (evaluation && settings.evalSteps > 0 && (last || state.step % settings.evalSteps === 0)) {
        const found = await evaluate()
        await files.log(found)
        yield found
      }
      if (settings.saveSteps > 0 && (last || state.step % settings.saveSteps === 0)) {
        const path = await files.checkpoint(state)
        yield { type: 'checkpoint', step: state.step, path: path! }
      }
    }
    if (state.step < totalSteps) {
      const path = await files.checkpoint(state)
      yield { type: 'interrupted', step: state.step, ...(path === undefined ? {} : { path }) }
      return
    }
    const path = await files.result()
    const seconds = (performance.now() - started) / 1000
    const end = { type: 'end', step: state.step, epoch: progress.epoch, seconds } as const
    yield path === undefined ? end : { ...end, path }
  } finally {
    signal?.removeEventListener('abort', askStop)
    await files.close()
  }
}
