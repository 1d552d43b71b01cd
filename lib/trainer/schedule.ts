// Learning-rate schedules, by the formulas of Hugging Face's transformers.
import type { SchedulerName } from './types.js'

export interface Schedule {
  name: SchedulerName
  learningRate: number
  warmupSteps: number
  /** undefined: no end is known, so the rate stays constant after warm-up. */
  totalSteps: number | undefined
}

/** warmupSteps, or the given share of all steps, rounded up. */
export function warmupSteps(steps: number, ratio: number, totalSteps: number | undefined): number {
  if (steps > 0 || ratio === 0 || totalSteps === undefined) return steps
  return Math.ceil(totalSteps * ratio)
}

/**
 * The rate of the step that follows `step` finished ones. Warm-up rises from 0 (the very first
 * step has rate 0); linear falls to 0, cosine over half a wave, constant stays.
 */
export function learningRateAt(schedule: Schedule, step: number): number {
  const { name, learningRate, warmupSteps: warmup, totalSteps: total } = schedule
  if (step < warmup) return learningRate * (step / Math.max(1, warmup))
  if (name === 'constant' || total === undefined) return learningRate
  const span = Math.max(1, total - warmup)
  if (name === 'linear') return learningRate * Math.max(0, (total - step) / span)
  const progress = (step - warmup) / span
  // transformers lets a cosine rise again behind its end; the end is where it stays here.
  return progress >= 1 ? 0 : learningRate * Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress)))
}
