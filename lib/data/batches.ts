// Puts samples into batches, in an order that a seed, an epoch and a position determine.
import { S2FTError } from '../errors.js'
import type { EncodedSample } from './encode-row.js'
import { Random } from './random.js'

export interface PackOptions {
  /** Samples in a batch. At least one of batchSize and maxTokens is needed; both may be given. */
  batchSize?: number
  /** Tokens in a batch. Samples are laid end to end without padding, none is ever split. */
  maxTokens?: number
  /** Default true. */
  shuffle?: boolean
  /** Default 0. */
  seed?: number
  /** Every epoch has its own order. Default 0. */
  epoch?: number
  /** Batches of this epoch that are already done; they are left out. Default 0. */
  position?: number
  /**
   * Batches hold samples of similar length, as in Hugging Face's option of that name: shuffled,
   * then sorted by length within stretches of 50 batches, the longest sample first of all.
   */
  groupByLength?: boolean
  /** Leaves out a last batch with fewer than batchSize samples. Default false. */
  dropLast?: boolean
}

/** Samples that one forward pass takes together. */
export interface Batch<S> {
  samples: S[]
  /** Their places in the list given to packBatches. */
  indices: number[]
  tokens: number
  /** Place of the batch in its epoch: resume after it with `position: position + 1`. */
  position: number
}

type Sized = Pick<EncodedSample, 'tokens'> & { source?: string }

function expectPositive(name: string, value: number | undefined): void {
  if (value === undefined || (Number.isInteger(value) && value > 0)) return
  throw new S2FTError('INVALID_ARGUMENT', `${name}: expected a positive integer, found ${value}`)
}

/** Stretches of shuffled samples, each sorted from long to short; equal lengths keep their order. */
function groupByLength(order: Int32Array, lengths: Int32Array, perStretch: number): Int32Array {
  const grouped = order.slice()
  for (let start = 0; start < grouped.length; start += perStretch) {
    const stretch = Array.from(grouped.subarray(start, start + perStretch))
    stretch.sort((a, b) => lengths[b]! - lengths[a]!)
    grouped.set(stretch, start)
  }
  // The longest sample comes first, so that memory that does not suffice shows at once.
  let longest = 0
  for (let i = 0; i < grouped.length; i++) {
    if (lengths[grouped[i]!]! > lengths[grouped[longest]!]!) longest = i
  }
  const first = grouped[0]!
  grouped[0] = grouped[longest]!
  grouped[longest] = first
  return grouped
}

/** The order in which an epoch visits its samples. */
export function sampleOrder(lengths: Int32Array, options: PackOptions = {}): Int32Array {
  const { shuffle = true, seed = 0, epoch = 0 } = options
  const order = shuffle
    ? new Random(seed, epoch, 0xba7c4).permutation(lengths.length)
    : Int32Array.from(lengths, (_, i) => i)
  if (!options.groupByLength || order.length === 0) return order
  let size = options.batchSize
  if (size === undefined) {
    const mean = lengths.reduce((sum, length) => sum + length, 0) / lengths.length
    size = Math.max(1, Math.round((options.maxTokens ?? mean) / mean))
  }
  return groupByLength(order, lengths, 50 * size)
}

/**
 * The batches of one epoch. The same samples and options give the same batches on every machine;
 * with `position` the same remaining ones. A batch is closed when the next sample would exceed
 * batchSize or maxTokens.
 *
 * Throws INVALID_ARGUMENT for bad options, and for a sample longer than maxTokens, by its name.
 */
export function packBatches<S extends Sized>(
  samples: readonly S[],
  options: PackOptions,
): Batch<S>[] {
  const { batchSize, maxTokens, position = 0 } = options
  if (batchSize === undefined && maxTokens === undefined) {
    throw new S2FTError('INVALID_ARGUMENT', 'packBatches: expected batchSize or maxTokens')
  }
  expectPositive('batchSize', batchSize)
  expectPositive('maxTokens', maxTokens)
  if (!Number.isInteger(position) || position < 0) {
    throw new S2FTError(
      'INVALID_ARGUMENT',
      `position: expected an integer from 0, found ${position}`,
    )
  }
  const lengths = Int32Array.from(samples, (sample) => sample.tokens.length)
  const mostSamples = batchSize ?? Number.POSITIVE_INFINITY
  const mostTokens = maxTokens ?? Number.POSITIVE_INFINITY
  const batches: Batch<S>[] = []
  let open: Batch<S> = { samples: [], indices: [], tokens: 0, position: 0 }
  const close = () => {
    batches.push(open)
    open = { samples: [], indices: [], tokens: 0, position: batches.length }
  }
  for (const index of sampleOrder(lengths, options)) {
    const length = lengths[index]!
    if (length > mostTokens) {
      const name = samples[index]!.source ?? `sample ${index}`
      throw new S2FTError(
        'INVALID_ARGUMENT',
        `${name}: ${length} tokens do not fit in a batch of maxTokens ${maxTokens}; lower maxLength or raise maxTokens`,
      )
    }
    if (open.samples.length >= mostSamples || open.tokens + length > mostTokens) close()
    open.samples.push(samples[index]!)
    open.indices.push(index)
    open.tokens += length
  }
  const short =
    batchSize !== undefined && maxTokens === undefined && open.samples.length < batchSize
  if (open.samples.length > 0 && !(options.dropLast && short)) close()
  return batches.slice(position)
}
