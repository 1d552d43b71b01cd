// Sweeps over the gap between the tasks, the selected channels' share in it, and the samples:
// measured risks over seeds, and what bounds.mjs predicts for the same problems.
import { constants, loraInsideBound, outsideBound, s2ftMeans, s2ftOutsideBound } from './bounds.mjs'
import { drawSamples, makeProblem, squares } from './network.mjs'
import {
  descend,
  risks,
  solveLora,
  solveS2ft,
  solveWithoutEnd,
  trainingLoss,
} from './solutions.mjs'

export const standard = {
  ...{ inputs: 24, hidden: 24, outputs: 16, r: 2 },
  ...{ gap: 4, share: 0.1, distance: 0.5, noise: 0.5, samples: 3200 },
}

export const sweeps = {
  gap: [0.25, 0.5, 1, 2, 4, 8],
  share: [0, 0.1, 0.25, 0.5, 0.75, 1],
  samples: [100, 400, 1600, 6400, 25600],
}

/** One seed's measured and predicted risks. */
export function measure(setting, uniform) {
  const problem = makeProblem(setting, uniform)
  const known = constants(problem)
  const n = setting.samples
  const data = drawSamples(problem, n, uniform)
  const [s2ft, lora] = [solveS2ft, solveLora].map((solve) => risks(problem, solve(problem, data)))
  const limit = solveWithoutEnd(problem)
  return {
    known,
    s2ft,
    lora,
    withoutEnd: { s2ft: risks(problem, limit.s2ft), lora: risks(problem, limit.lora) },
    predicted: {
      s2ft: s2ftMeans(known, n),
      s2ftOutsideBound: s2ftOutsideBound(known, n),
      loraInsideBound: loraInsideBound(known, n),
      loraOutsideBound: outsideBound(known, loraInsideBound(known, n)),
    },
  }
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length
const range = (values) => [Math.min(...values), Math.max(...values)]

/** Mean and range over seeds of everything that is drawn, and what was checked. */
export function summarise(x, runs) {
  const over = (pick) => {
    const values = runs.map(pick)
    return { mean: mean(values), range: range(values) }
  }
  const sides = (pick) => ({
    inside: over((run) => pick(run).inside),
    outside: over((run) => pick(run).outside),
  })
  return {
    x,
    before: over((run) => run.known.before),
    shift: over((run) => run.known.shift),
    s2ft: sides((run) => run.s2ft),
    lora: sides((run) => run.lora),
    predicted: {
      s2ft: sides((run) => run.predicted.s2ft),
      s2ftOutsideBound: over((run) => run.predicted.s2ftOutsideBound),
      loraInsideBound: over((run) => run.predicted.loraInsideBound),
      loraOutsideBound: over((run) => run.predicted.loraOutsideBound),
    },
    checks: checksOf(runs),
  }
}

/** Standard errors between measured risks and their exact mean. */
function deviation(runs, side) {
  const off = runs.map((run) => run.s2ft[side] - run.predicted.s2ft[side])
  const center = mean(off)
  const variance = mean(off.map((value) => (value - center) ** 2)) / (runs.length - 1)
  return center / Math.sqrt(variance)
}

/** Relative slack for what holds exactly but for rounding. */
const ROUNDING = 1e-9

function checksOf(runs) {
  const count = (holds) => runs.filter(holds).length
  return {
    runs: runs.length,
    /** Measured S2FT risks less their predicted means, in standard errors. */
    deviations: { inside: deviation(runs, 'inside'), outside: deviation(runs, 'outside') },
    s2ftBoundWithoutEnd: count(
      ({ known, withoutEnd }) =>
        withoutEnd.s2ft.outside <= (1 + known.epsilon2) * known.before * (1 + ROUNDING),
    ),
    /** Without an end of data LoRA's risk on the other task is the label shift. */
    loraIsShiftWithoutEnd: count(
      ({ known, withoutEnd }) =>
        Math.abs(withoutEnd.lora.outside - known.shift) <= known.shift * ROUNDING,
    ),
    loraInsideBound: count(({ lora, predicted }) => lora.inside <= predicted.loraInsideBound),
    /** For both methods, with the risk on the fine-tuning task that was measured. */
    outsideBound: count(({ known, lora, s2ft }) =>
      [lora, s2ft].every(
        (found) => found.outside >= outsideBound(known, found.inside) * (1 - ROUNDING),
      ),
    ),
  }
}

/** A line of points for each sweep. `makeUniform(seed)` gives a generator of numbers in [0, 1). */
export function runSweeps(seeds, makeUniform, setting = standard, wanted = sweeps) {
  return Object.fromEntries(
    Object.entries(wanted).map(([axis, values]) => [
      axis,
      values.map((x) => {
        const runs = Array.from({ length: seeds }, (_, seed) =>
          measure({ ...setting, [axis]: x }, makeUniform(seed)),
        )
        return summarise(x, runs)
      }),
    ]),
  )
}

/**
 * Gradient descent on the factors beside the minima in closed form: training losses, and how far
 * the network's map is from the minimum's, relative to its change.
 */
export function compareDescent(uniform, setting = standard, options = { steps: 4000, rate: 0.05 }) {
  const problem = makeProblem(setting, uniform)
  const data = drawSamples(problem, setting.samples, uniform)
  return Object.entries({ s2ft: solveS2ft, lora: solveLora }).map(([method, solve]) => {
    const best = solve(problem, data)
    const found = descend(problem, data, method, options, uniform)
    return {
      method,
      steps: options.steps,
      trainingLoss: trainingLoss(problem, data, found),
      leastTrainingLoss: trainingLoss(problem, data, best),
      distance: Math.sqrt(squares(found.clone().sub(best)) / squares(best)),
    }
  })
}
