// Real samples for `s2ft bench real`: encoded once, in the trainer's order, for both sides.
import { writeFile } from 'node:fs/promises'
import { type EncodedSample, encodeDataset, loadDataset, packBatches } from '../data/index.js'
import { S2FTError } from '../errors.js'
import { Model } from '../model/model.js'
import type { LoadOptions } from '../model/types.js'
import { Tokenizer } from '../tokenizer/index.js'

/** A sample as both sides read it from the file. */
export interface RealSample {
  tokens: number[]
  labels: number[]
}

/**
 * The first `count` usable rows of a data file, encoded as `s2ft train` does, in the order in
 * which a trainer with `batchSize` visits them in its first epoch.
 * @throws S2FTError INVALID_DATA when the file has fewer
 */
export async function realSamples(
  directory: string,
  file: string,
  count: number,
  options: { batchSize: number; maxLength: number },
): Promise<EncodedSample[]> {
  const dataset = await loadDataset(file)
  const tokenizer = await Tokenizer.load(directory)
  // Rows that are dropped for having nothing to learn are made up for by the rows behind them.
  for (let rows = count; ; rows *= 2) {
    const some = { ...dataset, rows: dataset.rows.slice(0, rows) }
    const { maxLength, batchSize } = options
    const { samples } = await encodeDataset(some, tokenizer, { maxLength })
    if (samples.length >= count) {
      const batches = packBatches(samples.slice(0, count), { batchSize })
      return batches.flatMap((batch) => batch.samples)
    }
    if (rows >= dataset.rows.length) {
      const message = `${file}: expected at least ${count} usable samples, found ${samples.length}: lower --steps or --batch`
      throw new S2FTError('INVALID_DATA', message)
    }
  }
}

/** Writes what `real-case.ts` and `bench/peer/real.py` read. */
export async function writeSamples(path: string, samples: readonly EncodedSample[]): Promise<void> {
  const plain: RealSample[] = samples.map(({ tokens, labels }) => ({
    tokens: [...tokens],
    labels: [...labels],
  }))
  await writeFile(path, JSON.stringify(plain))
}

/** The untrained model's loss on the first batch, for each batch size. */
export async function baseLosses(
  directory: string,
  options: LoadOptions,
  samples: readonly EncodedSample[],
  batchSizes: Iterable<number>,
): Promise<Map<number, number>> {
  await using model = await Model.load(directory, options)
  const losses = new Map<number, number>()
  for (const size of new Set(batchSizes)) {
    losses.set(size, (await model.loss(samples.slice(0, size))).loss)
  }
  return losses
}

/** Rows that the engine computes for a batch of so many tokens: as padded_tokens in cpp/model. */
export function computedPositions(tokens: number): number {
  let unit = 1
  while (unit < 64 && 32 * unit <= tokens) unit *= 2
  return Math.ceil(tokens / unit) * unit
}
