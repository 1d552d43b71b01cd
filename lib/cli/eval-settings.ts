// What decides the results of an evaluation: an interrupted one continues with the same only.
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { join } from 'node:path'
import { S2FTError } from '../errors.js'
import type { RunSettings } from '../eval/results-file.js'
import type { Model } from '../model/model.js'
import type { EvalCommandOptions } from './commands/eval.js'
import { packageVersion } from './common.js'
import type { AdapterChoice } from './parse.js'

/** SHA-256 of a file's bytes. Throws IO. */
async function fileHash(path: string): Promise<string> {
  const hash = createHash('sha256')
  try {
    for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer)
  } catch (cause) {
    throw new S2FTError('IO', `could not read ${path}: ${(cause as Error).message}`, { cause })
  }
  return hash.digest('hex')
}

/** Of each adapter the hashes of its files and, where it is not 1, its weight. */
async function adapterSettings(adapters: readonly AdapterChoice[]): Promise<unknown[]> {
  const all: unknown[] = []
  for (const { directory, weight } of adapters) {
    all.push(await fileHash(join(directory, 'adapter_config.json')))
    all.push(await fileHash(join(directory, 'adapter_model.safetensors')))
    if (weight !== 1) all.push(weight)
  }
  return all
}

/** The settings that are kept beside the results. Throws IO. */
export async function evaluationSettings(
  options: EvalCommandOptions,
  model: Model,
): Promise<RunSettings> {
  const { adapter, files, dev } = options
  const data: Record<string, string> = {}
  for (const file of files) data[file] = await fileHash(file)
  return {
    version: packageVersion(),
    task: options.task,
    scoring: options.task === 'choice' ? options.scoring : null,
    template: options.template,
    shots: options.shots ?? null,
    dev: dev === undefined ? null : await fileHash(dev),
    limit: options.limit ?? null,
    batchSize: options.batchSize,
    maxNewTokens: options.maxNewTokens,
    maxLength: options.maxLength ?? null,
    seed: options.seed ?? null,
    modelId: options.task === 'mt-bench' ? options.modelId : null,
    model: await model.fingerprint(),
    tokenizer: await fileHash(join(model.directory, 'tokenizer.json')),
    adapter: adapter === undefined ? null : await adapterSettings(adapter),
    device: model.device,
    dtype: model.dtype,
    ...(model.quantization && { quantization: model.quantization }),
    threads: model.threads,
    arithmetic: model.arithmetic,
    data,
  }
}
