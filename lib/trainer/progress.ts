// Where a run stands in its data.
import { trainedTokens } from '../model/samples.js'
import type { SourcedSample } from '../model/types.js'
import type { RunBatches } from './batches.js'
import type { TrainerState } from './state.js'

/** The step's place in the run, and the state that a checkpoint after it holds. */
export class Progress {
  constructor(
    readonly state: TrainerState,
    private readonly batches: RunBatches,
  ) {}

  /** Micro-batches of the next step that are this rank's, and trained tokens of all ranks'. */
  next(): { mine: SourcedSample[][]; tokens: number } {
    const all = this.batches.epoch(this.state.epoch)[this.state.stepInEpoch]!
    const tokens = all.flat().reduce((sum, { labels }) => sum + trainedTokens(labels), 0)
    return { mine: this.batches.mine(all), tokens }
  }

  advance(inputTokens: number): void {
    const { state } = this
    state.step++
    state.inputTokens += inputTokens
    state.stepInEpoch++
    if (state.stepInEpoch >= this.batches.epoch(state.epoch).length) {
      state.epoch++
      state.stepInEpoch = 0
    }
  }

  /** Epochs done, as a fraction. */
  get epoch(): number {
    const { epoch, stepInEpoch } = this.state
    return stepInEpoch === 0 ? epoch : epoch + stepInEpoch / this.batches.epoch(epoch).length
  }
}
