// Training data as checked samples, and their fingerprint.
import { createHash } from 'node:crypto'
import type { Adapter } from '../adapter/adapter.js'
import { defaultMaxLength, describeReport, encodeDataset, packBatches } from '../data/index.js'
import { S2FTError } from '../errors.js'
import type { Model } from '../model/model.js'
import { checkBatch, IGNORE, trainedTokens } from '../model/samples.js'
import type { SampleInput, SourcedSample } from '../model/types.js'
import { show } from '../model/validate.js'
import { isData, packing, type TrainerSettings } from './options.js'
import type { TrainingData } from './types.js'

export interface PreparedData {
  samples: SourcedSample[]
  /** What was cut or left out. */
  warnings: string[]
}

/**
 * Encodes a Dataset or checks samples. Throws INVALID_DATA for a sample without a trained token,
 * and what encodeDataset throws.
 */
export async function prepareData(
  model: Model,
  data: TrainingData,
  settings: TrainerSettings,
): Promise<PreparedData> {
  if (!isData(data)) {
    throw new S2FTError(
      'INVALID_ARGUMENT',
      `data: expected samples or a Dataset of loadDataset, found ${show(data)}`,
    )
  }
  const vocab = model.config.native.vocabSize
  if ('rows' in data) {
    const maxLength =
      settings.encode?.maxLength ?? defaultMaxLength(data, model.config.maxPositionEmbeddings)
    const options = { ...settings.encode, maxLength }
    const { samples, report } = await encodeDataset(data, await model.tokenizer(), options)
    return { samples: checkBatch(samples, vocab, 'data'), warnings: describeReport(report) }
  }
  const samples = checkBatch(data as readonly SampleInput[], vocab, 'data')
  const empty = samples.findIndex(({ labels }) => trainedTokens(labels) === 0)
  if (empty >= 0) {
    throw new S2FTError(
      'INVALID_DATA',
      `${samples[empty]!.source ?? `data[${empty}]`}: expected at least one trained token ` +
        '(a label other than -100 after the first), found none',
    )
  }
  return { samples, warnings: [] }
}

/**
 * LoReFT changes prompts only, so that a sample without one would train nothing. Throws INVALID_DATA
 * naming the first such sample, before a run rather than in its middle.
 */
export function requirePrompts(samples: readonly SourcedSample[], settings: TrainerSettings): void {
  if (settings.method.kind !== 'loreft') return
  const at = samples.findIndex(({ labels }) => labels[0] !== IGNORE)
  if (at < 0) return
  throw new S2FTError(
    'INVALID_DATA',
    `${samples[at]!.source ?? `data[${at}]`}: expected a prompt (labels of -100 at the start), ` +
      'found none: LoReFT changes prompts only',
  )
}

/** Hash of every token and label in order: a resumed run must see the same data. */
export function dataFingerprint(samples: readonly SourcedSample[]): string {
  const hash = createHash('sha256')
  for (const { tokens, labels } of samples) {
    hash.update(Int32Array.of(tokens.length))
    hash.update(tokens)
    hash.update(labels)
  }
  return hash.digest('hex')
}

/** Hash of an adapter's tensors; '' for none. */
export function adapterFingerprint(adapter: Adapter | undefined): string {
  if (!adapter) return ''
  const hash = createHash('sha256')
  for (const name of [...adapter.tensors.keys()].sort()) {
    hash.update(name)
    hash.update(adapter.tensors.get(name)!.data)
  }
  return hash.digest('hex')
}

/**
 * Mean negative log-likelihood over all trained tokens, in batches of the training's size, which
 * ranks divide.
 */
export async function evaluateSamples(
  model: Model,
  samples: readonly SourcedSample[],
  settings: TrainerSettings,
  score: (batch: SourcedSample[]) => Promise<Float32Array[]>,
): Promise<{ loss: number; tokens: number }> {
  model.native()
  let total = 0
  let tokens = 0
  const longest = samples.reduce((most, sample) => Math.max(most, sample.tokens.length), 0)
  const limits = packing(settings)
  // Evaluation data may hold samples longer than any of the training data.
  if (limits.maxTokens !== undefined) limits.maxTokens = Math.max(limits.maxTokens, longest)
  const { job } = settings
  const batches = packBatches(samples, { ...limits, shuffle: false })
  for (const [i, { samples: batch }] of batches.entries()) {
    if (job && i % job.size !== job.rank) continue
    for (const row of await score(batch)) for (const value of row) total -= value
    for (const { labels } of batch) tokens += trainedTokens(labels)
  }
  if (job) [total, tokens] = (await job.sum([total, tokens])) as [number, number]
  return { loss: total / tokens, tokens }
}
