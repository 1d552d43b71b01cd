// From checked rows to training samples, with a report of what was cut and left out.
import { S2FTError } from '../errors.js'
import {
  DEFAULT_BLOCK,
  type EncodedSample,
  type EncodeRowOptions,
  encodeRow,
  type SampleTokenizer,
  trainedTokens,
} from './encode-row.js'
import { type Dataset, DropCounter, type Dropped } from './load.js'

export interface EncodeDatasetOptions extends EncodeRowOptions {
  /** What a row does that the template refuses: an error (default), or a counted warning. */
  onBadRow?: 'error' | 'skip'
  signal?: AbortSignal
}

export interface EncodeReport {
  /** Rows read from the files. */
  read: number
  /** Samples made. */
  kept: number
  /** Samples cut to maxLength. */
  truncated: number
  dropped: Dropped[]
  tokens: number
  trainedTokens: number
}

export interface EncodedDataset {
  samples: EncodedSample[]
  report: EncodeReport
}

/**
 * Longest sequence when none is asked for: what a model of so many positions can take. A text file
 * has no length of its own, so it is not cut into blocks of the model's whole context.
 */
export function defaultMaxLength({ rows }: Dataset, positions: number): number {
  const text = rows.every((row) => row.kind === 'text' && row.document)
  return text ? Math.min(DEFAULT_BLOCK, positions) : positions
}

/**
 * Encodes a data set. Samples longer than maxLength are cut at the end and counted; those without
 * any token to learn are dropped and counted.
 *
 * Throws INVALID_DATA (a row the template refuses, named by file and line; nothing left),
 * INVALID_ARGUMENT (options), CANCELLED (signal).
 */
export async function encodeDataset(
  dataset: Dataset,
  tokenizer: SampleTokenizer,
  options: EncodeDatasetOptions = {},
): Promise<EncodedDataset> {
  const limit = options.maxLength
  if (limit !== undefined && !(Number.isInteger(limit) && limit >= 2)) {
    throw new S2FTError('INVALID_ARGUMENT', `maxLength: expected an integer from 2, found ${limit}`)
  }
  const dropped = new DropCounter(dataset.dropped)
  const report = { read: dataset.read, kept: 0, truncated: 0, tokens: 0, trainedTokens: 0 }
  const samples: EncodedSample[] = []
  const add = (sample: EncodedSample) => {
    let kept = sample
    if (trainedTokens(sample) === 0) return dropped.add('no token to learn', sample.source)
    if (limit !== undefined && sample.tokens.length > limit) {
      const { tokens, labels, source } = sample
      kept = { tokens: tokens.slice(0, limit), labels: labels.slice(0, limit), source }
      if (trainedTokens(kept) === 0) {
        return dropped.add(`no token to learn within maxLength ${limit}`, source)
      }
      report.truncated++
    }
    samples.push(kept)
    report.tokens += kept.tokens.length
    report.trainedTokens += trainedTokens(kept)
  }
  let pause = Date.now() + 20
  for (const row of dataset.rows) {
    if (Date.now() > pause) {
      await new Promise((resolve) => setImmediate(resolve))
      pause = Date.now() + 20
    }
    if (options.signal?.aborted) throw new S2FTError('CANCELLED', 'encoding the data was cancelled')
    try {
      for (const sample of encodeRow(row, tokenizer, options)) add(sample)
    } catch (error) {
      if (!(error instanceof S2FTError) || error.code !== 'INVALID_DATA') throw error
      if (options.onBadRow !== 'skip') {
        throw new S2FTError('INVALID_DATA', `${row.source}: ${error.message}`, {
          cause: error,
          details: { source: row.source },
        })
      }
      dropped.add('refused by the chat template', row.source)
    }
  }
  const result = { ...report, kept: samples.length, dropped: dropped.list() }
  if (samples.length === 0) {
    throw new S2FTError(
      'INVALID_DATA',
      `${dataset.files.join(', ')}: nothing left to train on: ${describeReport(result).join('; ')}`,
      { details: { report: result } },
    )
  }
  return { samples, report: result }
}

/** Warnings worth showing, one a line; empty when every row was used whole. */
export function describeReport(report: EncodeReport): string[] {
  const lines = report.dropped.map(
    ({ reason, count, first }) =>
      `${count} of ${report.read} rows dropped: ${reason} (first: ${first})`,
  )
  if (report.truncated > 0)
    lines.push(`${report.truncated} of ${report.kept} samples cut to length`)
  return lines
}
