// The setting of the paper's section 4: a deep linear network, a task to fine-tune it on, and
// another task that it should not forget. Everything is f64 and drawn from one seeded generator.
import { Matrix, QrDecomposition, SVD } from 'ml-matrix'

/** Standard normal numbers from uniform ones (Box-Muller). */
function normal(uniform) {
  const radius = Math.sqrt(-2 * Math.log(1 - uniform()))
  return radius * Math.cos(2 * Math.PI * uniform())
}

export function gaussian(rows, cols, uniform) {
  const matrix = new Matrix(rows, cols)
  for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) matrix.set(i, j, normal(uniform))
  return matrix
}

/** Orthonormal columns, uniformly random. */
function frame(rows, cols, uniform) {
  return new QrDecomposition(gaussian(rows, cols, uniform)).orthogonalMatrix
}

/** A well-conditioned layer [out, in]: singular values between 0.6 and 1.4. */
function layer(out, input, uniform) {
  const rank = Math.min(out, input)
  const values = Matrix.diag(Array.from({ length: rank }, () => 0.6 + 0.8 * uniform()))
  return frame(out, rank, uniform)
    .mmul(values)
    .mmul(frame(input, rank, uniform).transpose())
}

/** Orthonormal columns that span the image of `a`. */
export function imageOf(a) {
  const { leftSingularVectors: left, diagonal } = new SVD(a, { autoTranspose: true })
  const rank = diagonal.filter((value) => value > 1e-10 * diagonal[0]).length
  return left.subMatrix(0, a.rows - 1, 0, rank - 1)
}

/** Squared Frobenius norm. */
export function squares(matrix) {
  return matrix.to1DArray().reduce((sum, value) => sum + value * value, 0)
}

/** The part of `matrix` in the span of orthonormal columns. */
export function project(basis, matrix) {
  return basis.mmul(basis.transpose().mmul(matrix))
}

function scaledTo(matrix, total) {
  return matrix.clone().mul(Math.sqrt(total / squares(matrix)))
}

/**
 * A network x -> A (W + change) Z x whose middle layer W [hidden, inputs] is fine-tuned; inputs
 * x ~ N(0, S) with a decaying spectrum. Two tasks y = B x + noise with the same S:
 * fine-tuning moves away from the network by `gap` (squared norm of (B - M) S^(1/2)) and by rank
 * `r`, a share `share` of it within what the selected channels reach; the other task differs from
 * the network by `distance` only. The channels are as many as LoRA of rank r has parameters for.
 */
export function makeProblem({ inputs, hidden, outputs, r, gap, share, distance, noise }, uniform) {
  const above = layer(outputs, hidden, uniform)
  const tuned = layer(hidden, inputs, uniform)
  const below = layer(inputs, inputs, uniform)
  const channels = Math.floor((r * (hidden + inputs)) / inputs)
  const order = Array.from({ length: hidden }, (_, i) => [uniform(), i]).sort((a, b) => a[0] - b[0])
  const selected = order.slice(0, channels).map(([, i]) => i)
  const root = Matrix.diag(Array.from({ length: inputs }, (_, i) => 1 / Math.sqrt(1 + i / 4)))
  const inverseRoot = Matrix.diag(root.diag().map((value) => 1 / value))
  const pretrained = above.mmul(tuned).mmul(below)

  const reached = imageOf(above.subMatrixColumn(selected))
  const right = frame(inputs, r, uniform).transpose()
  const inside = project(reached, gaussian(outputs, r, uniform)).mmul(right)
  const drawn = gaussian(outputs, r, uniform)
  const outside = Matrix.sub(drawn, project(reached, drawn)).mmul(right)
  // Both parts share the right factor: their sum has rank r.
  const residual = Matrix.add(scaledTo(inside, share * gap), scaledTo(outside, (1 - share) * gap))
  const residualOther = scaledTo(gaussian(outputs, inputs, uniform), distance)
  return {
    ...{ r, noise, above, tuned, below, selected, root, inverseRoot, pretrained, reached },
    /** (B - M) S^(1/2) of the fine-tuning task and of the other one, [outputs, inputs]. */
    residual,
    residualOther,
    /** B of the fine-tuning task. */
    target: Matrix.add(pretrained, residual.mmul(inverseRoot)),
  }
}

/** n samples of the fine-tuning task: x [inputs, n], y [outputs, n]. */
export function drawSamples({ root, target, noise }, n, uniform) {
  const x = root.mmul(gaussian(root.rows, n, uniform))
  const y = Matrix.add(target.mmul(x), gaussian(target.rows, n, uniform).mul(noise))
  return { x, y }
}
