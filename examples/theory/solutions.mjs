// What fine-tuning ends in. A method's result is the change of the network's map, D [outputs,
// inputs]: the fine-tuned network is x -> (M + D) x.
import { EigenvalueDecomposition, inverse, Matrix, SVD } from 'ml-matrix'
import { gaussian, imageOf, project, squares } from './network.mjs'

/** s^(1/2) and s^(-1/2) of a symmetric positive definite matrix. */
function roots(s) {
  const { eigenvectorMatrix: vectors, realEigenvalues: values } = new EigenvalueDecomposition(s, {
    assumeSymmetric: true,
  })
  const power = (exponent) =>
    vectors.mmul(Matrix.diag(values.map((v) => v ** exponent))).mmul(vectors.transpose())
  return { root: power(0.5), inverseRoot: power(-0.5) }
}

/** Least squares of what the network leaves: (y - M x) x^T (x x^T)^-1, and x x^T / n. */
function leastSquares({ pretrained }, { x, y }) {
  const second = x.mmul(x.transpose()).div(x.columns)
  const rest = Matrix.sub(y, pretrained.mmul(x))
  return { fit: rest.mmul(x.transpose()).div(x.columns).mmul(inverse(second)), second }
}

/** S2FT: the least-squares change within what the selected channels reach. */
export function solveS2ft(problem, samples) {
  return project(problem.reached, leastSquares(problem, samples).fit)
}

/** LoRA: of the changes of rank r, the one of least training loss (reduced-rank regression). */
export function solveLora(problem, samples) {
  const { fit, second } = leastSquares(problem, samples)
  const { root, inverseRoot } = roots(second)
  return truncated(project(imageOf(problem.above), fit).mmul(root), problem.r).mmul(inverseRoot)
}

/** The nearest matrix of rank r. */
function truncated(matrix, r) {
  const svd = new SVD(matrix, { autoTranspose: true })
  const left = svd.leftSingularVectors.subMatrix(0, matrix.rows - 1, 0, r - 1)
  const right = svd.rightSingularVectors.subMatrix(0, matrix.columns - 1, 0, r - 1)
  return left.mmul(Matrix.diag(svd.diagonal.slice(0, r))).mmul(right.transpose())
}

/** The same with all the data there can be. */
export function solveWithoutEnd({ reached, residual, inverseRoot, above, r }) {
  return {
    s2ft: project(reached, residual).mmul(inverseRoot),
    lora: truncated(project(imageOf(above), residual), r).mmul(inverseRoot),
  }
}

/** Excess risks of M + D: on the fine-tuning task, and on the other one. */
export function risks({ residual, residualOther, root }, change) {
  const moved = change.mmul(root)
  return {
    inside: squares(Matrix.sub(residual, moved)),
    outside: squares(Matrix.sub(residualOther, moved)),
  }
}

/**
 * Gradient descent with momentum on the factors themselves, from the network as it is: LoRA's
 * U = 0 [hidden, r] and small random V [inputs, r]; S2FT's V = 0 with U fixed to the channels'
 * unit vectors. Returns D.
 */
export function descend(problem, { x, y }, method, { steps, rate, momentum = 0.9 }, uniform) {
  const { above, below, pretrained, selected, tuned, r } = problem
  const n = x.columns
  const features = below.mmul(x)
  const rest = Matrix.sub(y, pretrained.mmul(x))
  const second = features.mmul(features.transpose()).div(n)
  const cross = above.transpose().mmul(rest).mmul(features.transpose()).div(n)
  const gram = above.transpose().mmul(above)
  const unit = Matrix.zeros(tuned.rows, selected.length)
  for (const [at, channel] of selected.entries()) unit.set(channel, at, 1)
  const lora = method === 'lora'
  const u = lora ? Matrix.zeros(tuned.rows, r) : unit
  const v = lora
    ? gaussian(tuned.columns, r, uniform).mul(0.1)
    : Matrix.zeros(tuned.columns, unit.columns)
  const [uSpeed, vSpeed] = [u, v].map((m) => Matrix.zeros(m.rows, m.columns))
  for (let step = 0; step < steps; step++) {
    // Of half the mean squared error with respect to W.
    const gradient = Matrix.sub(gram.mmul(u).mmul(v.transpose()).mmul(second), cross)
    const dv = gradient.transpose().mmul(u)
    if (lora) u.add(uSpeed.mul(momentum).sub(gradient.mmul(v).mul(rate)))
    v.add(vSpeed.mul(momentum).sub(dv.mul(rate)))
  }
  return above.mmul(u).mmul(v.transpose()).mmul(below)
}

/** Mean squared error on the samples. */
export function trainingLoss({ pretrained }, { x, y }, change) {
  return squares(Matrix.sub(y, Matrix.add(pretrained, change).mmul(x))) / x.columns
}
