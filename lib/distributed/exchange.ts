// What data parallel training moves between ranks.
import type { Model } from '../model/model.js'
import type { NativeParameter } from '../native/binding.js'
import type { Exchange } from '../trainer/types.js'
import type { Job } from './job.js'

/** Bytes that a rank sends in a step to add gradients up: see Communicator::sum. */
export function exchangeOf(
  job: Job,
  model: Model,
  parameters: readonly NativeParameter[],
): Exchange {
  const values = parameters.reduce((sum, { shape }) => sum + shape.reduce((n, m) => n * m, 1), 0)
  const sent = (count: number) => Math.round((8 * count * (job.size - 1)) / job.size)
  return {
    ranks: job.size,
    library: job.library,
    bytesPerStep: sent(values),
    fullBytesPerStep: sent(model.parameters),
  }
}
