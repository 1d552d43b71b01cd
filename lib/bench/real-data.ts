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

/** Rows read for each sample that is wanted, and some more: a few may have nothing to learn. */
const ROWS_A_SAMPLE = 2
const MORE_ROWS = 100

/**
 * The first `count` usable rows of a data file, encoded as `s2ft train` does, in the order in
 * which a trainer with `batchSize` visits them in its first epoch.
 * @throws S2FTError INVALID_DATA when the beginning of the file has fewer
 */
export async function realSamples(
  directory: string,
  file: string,
  count: number,
  { batchSize, maxLength }: { batchSize: number; maxLength: number },
): Promise<EncodedSample[]> {
  const dataset = await loadDataset(file, { limit: ROWS_A_SAMPLE * count + MORE_ROWS })
  const tokenizer = await Tokenizer.load(directory)
  const { samples } = await encodeDataset(dataset, tokenizer, { maxLength })
  if (samples.length < count) {
    throw new S2FTError(
      'INVALID_DATA',
      `${file}: expected at least ${count} usable samples, found ${samples.length} in the ` +
        `first ${dataset.rows.length} rows: lower --steps, --warmup or --batch`,
    )
  }
  const batches = packBatches(samples.slice(0, count), { batchSize })
  return batches.flatMap((batch) => batch.samples)
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
