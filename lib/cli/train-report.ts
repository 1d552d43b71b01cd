// Tells about a training run: data, memory plan, progress; as text or as JSON lines.
import { describeReport, type EncodeReport } from '../data/index.js'
import type { Model } from '../model/model.js'
import { bytes, duration, grouped, percent } from '../report/format.js'
import type {
  CheckpointEvent,
  EndEvent,
  EvalEvent,
  PlanEvent,
  StepEvent,
  TrainEvent,
  WarningEvent,
} from '../trainer/types.js'
import type { Output } from './output.js'
import { Progress } from './progress.js'
import type { TrainSettings } from './train-options.js'

export class TrainReport {
  private readonly progress: Progress
  private readonly began = performance.now()

  constructor(
    private readonly out: Output,
    private readonly settings: TrainSettings,
    private readonly model: Model,
  ) {
    this.progress = new Progress('training', out.silent)
  }

  data(use: 'training' | 'evaluation', file: string, report: EncodeReport): void {
    this.out.event({ type: 'data', use, file, ...report })
    const { kept, truncated, tokens, trainedTokens, dropped } = report
    const lost = dropped.reduce((sum, { count }) => sum + count, 0)
    this.out.line(
      `${use} data  ${grouped(kept)} samples kept, ${truncated} truncated, ${lost} dropped; ` +
        `${grouped(tokens)} tokens, ${grouped(trainedTokens)} trained (${file})`,
    )
    for (const warning of describeReport(report)) this.out.note(`warning: ${warning}`)
  }

  /** The first Ctrl-C arrived. */
  stopping(): void {
    this.progress.note('finishing the step, then writing a checkpoint; Ctrl-C again ends at once')
  }

  close(): void {
    this.progress.stop()
  }

  event(event: TrainEvent): void {
    if (event.type === 'plan') this.plan(event)
    else if (event.type === 'step') this.step(event)
    else if (event.type === 'interrupted') this.interrupted(event.step, event.path)
    else if (event.type === 'end') this.end(event)
    else {
      this.out.event(event)
      this.progress.note(describe(event))
    }
  }

  private plan(event: PlanEvent): void {
    const { model } = this
    const share = event.trainableParameters / model.parameters
    const { device, dtype, quantization } = model
    this.out.event({
      ...event,
      trainableShare: share,
      device,
      dtype,
      ...(quantization && { quantization }),
    })
    this.out.line(
      `trainable      ${grouped(event.trainableParameters)} of ${grouped(model.parameters)} parameters (${percent(share)}), ` +
        `as many as LoRA of rank ${Number(event.equalLoraRank.toPrecision(3))} on all linear layers`,
    )
    const modules = Object.entries(event.trainableByModule).map(
      ([module, count]) => `${module} ${grouped(count)} (${percent(count / model.parameters)})`,
    )
    this.out.line(`by module      ${modules.join(', ')}`)
    const parts = (
      ['weights', 'trainable', 'optimizer', 'activations', 'workspace', 'process'] as const
    )
      .map((part) => `${part} ${bytes(event[part])}`)
      .join(', ')
    this.out.line(`memory plan    ${bytes(event.total)} of ${bytes(event.available)}: ${parts}`)
    const from = event.step > 0 ? `, resumed at step ${event.step}` : ''
    this.out.line(
      `steps          ${event.totalSteps} (${event.stepsPerEpoch} an epoch${from}); ${device}, ${dtype}${quantization ? ` over ${quantization}` : ''}`,
    )
    const { distributed: sent } = event
    if (sent) {
      this.out.line(
        `exchanged      ${bytes(sent.bytesPerStep)} a step from each of ${sent.ranks} ranks; ` +
          `${bytes(sent.fullBytesPerStep)} if all weights trained`,
      )
    }
    this.progress.start(event.totalSteps, event.step)
  }

  private step(event: StepEvent): void {
    this.out.event(event)
    const { step, totalSteps, loss, learningRate, tokensPerSecond } = event
    const rate = learningRate.toExponential(1)
    this.progress.update(
      step,
      totalSteps,
      `loss ${loss.toFixed(4)}  lr ${rate}  ${tokensPerSecond.toFixed(0)} tokens/s`,
    )
  }

  private end(event: EndEvent): void {
    this.progress.stop()
    this.out.event(event)
    const seconds = (performance.now() - this.began) / 1000
    this.out.line(`done           ${event.step} steps in ${duration(seconds)}`)
    if (event.path) this.out.line(`saved          ${event.path}`)
  }

  private interrupted(step: number, path: string | undefined): void {
    this.progress.stop()
    this.out.event({ type: 'interrupted', step, ...(path && { path }) })
    const { output } = this.settings
    const where = path ? `: checkpoint ${path}` : ''
    this.out.note(`interrupted after step ${step}${where}`)
    this.out.note(`resume with the same command and --resume (output directory ${output})`)
  }
}

function describe(event: WarningEvent | EvalEvent | CheckpointEvent): string {
  if (event.type === 'warning') return `warning: ${event.message}`
  if (event.type === 'checkpoint') return `step ${event.step}: checkpoint ${event.path}`
  const { step, loss, seconds } = event
  return `step ${step}: evaluation loss ${loss.toFixed(4)} (${duration(seconds)})`
}
