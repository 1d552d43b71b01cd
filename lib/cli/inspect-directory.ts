// Recognises what a directory holds by its files, and says what matters about each part.
import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { Adapter } from '../adapter/adapter.js'
import { adapterOverlap } from '../adapter/overlap.js'
import { chosenUnits } from '../adapter/units.js'
import { linearShapes } from '../bench/shapes.js'
import { S2FTError } from '../errors.js'
import { parseModelConfig } from '../model/config.js'
import { weightFiles } from '../model/files.js'
import { readJson, validate } from '../model/validate.js'
import { bytes } from '../report/format.js'
import { inspectGguf } from './inspect-gguf.js'
import { safetensorsHeader } from './safetensors-header.js'
import { selectionFacts } from './selection-page.js'

/** One recognised thing; arrays of objects are its tables. */
export interface Part {
  type: string
  path: string
  [key: string]: unknown
}

/**
 * Everything found in `directory`, or about one GGUF file: a training output gives its adapter or model, its metrics and
 * its checkpoints. Throws IO when there is nothing that can be explained.
 */
export async function inspectDirectory(directory: string): Promise<Part[]> {
  if (directory.endsWith('.gguf') && (await isFile(directory)))
    return [await inspectGguf(directory)]
  let names: string[]
  try {
    names = await readdir(directory)
  } catch (cause) {
    const message = `expected a directory at ${directory}: ${(cause as Error).message}`
    throw new S2FTError('IO', message, { cause })
  }
  const parts: Part[] = []
  if (names.includes('adapter_config.json')) parts.push(await inspectAdapter(directory))
  if (names.includes('config.json')) parts.push(await inspectModel(directory))
  for (const name of names.filter((name) => name.endsWith('.gguf')).sort()) {
    parts.push(await inspectGguf(join(directory, name)))
  }
  if (names.includes('metrics.jsonl')) parts.push(await inspectMetrics(directory))
  if (names.includes('trainer_state.json')) parts.unshift(await inspectCheckpoint(directory))
  const step = (name: string) => Number(name.slice('checkpoint-'.length))
  const checkpoints = names.filter((name) => /^checkpoint-\d+$/.test(name))
  for (const name of checkpoints.sort((a, b) => step(a) - step(b))) {
    parts.push(await inspectCheckpoint(join(directory, name)))
  }
  if (parts.length > 0) return parts
  const shown = names.slice(0, 5).join(', ') || 'no files'
  throw new S2FTError(
    'IO',
    `${directory}: expected config.json, adapter_config.json, a GGUF file, metrics.jsonl or a checkpoint, found ${shown}`,
  )
}

async function isFile(path: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined)
  return found?.isFile() ?? false
}

/**
 * The weights that the adapters of two directories both change. Throws as Adapter.load does.
 */
export async function inspectOverlap(first: string, second: string): Promise<Part> {
  const [a, b] = [await Adapter.load(first), await Adapter.load(second)]
  const modules = adapterOverlap(a, b)
  const known = modules.every(({ weights }) => weights !== undefined)
  const fingerprints = new Set([a, b].map(({ info }) => info.baseFingerprint))
  fingerprints.delete(undefined)
  return {
    type: 'overlap',
    path: `${first}, ${second}`,
    sameBase: fingerprints.size < 2,
    overlappingModules: modules.length,
    overlappingWeights: known
      ? modules.reduce((sum, { weights = 0 }) => sum + weights, 0)
      : 'not known without the model',
    modules: modules.map(({ module, weights }) => ({ module, weights: weights ?? '?' })),
  }
}

async function inspectModel(path: string): Promise<Part> {
  const file = join(path, 'config.json')
  const config = parseModelConfig(await readJson(file, 'INVALID_CONFIG'), file)
  const c = config.native
  const types = new Map<string, number>()
  let parameters = 0
  let size = 0
  for (const weights of await weightFiles(path)) {
    const header = await safetensorsHeader(weights)
    size += (await stat(weights)).size
    for (const { dtype, shape } of header.tensors) {
      const count = shape.reduce((a, b) => a * b, 1)
      parameters += count
      types.set(dtype, (types.get(dtype) ?? 0) + count)
    }
  }
  const linear = linearShapes({
    hidden_size: c.hiddenSize,
    intermediate_size: c.intermediateSize,
    num_hidden_layers: c.layers,
    num_attention_heads: c.heads,
    num_key_value_heads: c.kvHeads,
    head_dim: c.headDim,
    vocab_size: c.vocabSize,
    tie_word_embeddings: c.tieWordEmbeddings,
    rope_theta: c.rope.theta,
  })
  const units = { q: c.heads, k: c.kvHeads, v: c.kvHeads, o: c.heads }
  return {
    type: 'model',
    path,
    architecture: config.architecture,
    parameters,
    dtypes: [...types.keys()].join(', '),
    size: bytes(size),
    layers: c.layers,
    hiddenSize: c.hiddenSize,
    intermediateSize: c.intermediateSize,
    heads: c.heads,
    kvHeads: c.kvHeads,
    headDim: c.headDim,
    vocabSize: c.vocabSize,
    tiedHead: c.tieWordEmbeddings,
    maxPositions: config.maxPositionEmbeddings,
    rope: c.rope.type,
    modules: Object.entries(linear).map(([module, [input, output]]) => ({
      module,
      in: input,
      out: output,
      units: units[module as keyof typeof units] ?? c.intermediateSize,
      unit: module in units ? 'head' : 'channel',
    })),
  }
}

async function inspectAdapter(path: string): Promise<Part> {
  const adapter = await Adapter.load(path)
  const { info } = adapter
  const common = {
    path,
    baseModel: info.baseModel,
    baseFingerprint: info.baseFingerprint ?? 'not recorded',
    parameters: adapter.parameters,
    size: bytes(adapter.bytes),
  }
  if (info.type === 'lora') {
    const { r, alpha, dropout, rslora, dora = false, targetModules } = info
    const scale = alpha / (rslora ? Math.sqrt(r) : r)
    const lora = { r, alpha, scale, dropout, rslora, dora, targetModules }
    return { type: 'lora-adapter', ...common, ...lora }
  }
  if (info.type === 'loreft') {
    const { r, positions, shareWeights, dropout, seed, layers } = info
    const shown = { r, positions, shareWeights: String(shareWeights), dropout, seed, layers }
    return { type: 'loreft-adapter', ...common, ...shown }
  }
  if (info.type === 'sparse') {
    const { masks, seed } = info
    const { strategy: selection, share } = info.selection
    return { type: 'sparse-adapter', ...common, selection, share, seed, masks }
  }
  return {
    type: 's2ft-adapter',
    ...common,
    ...selectionFacts(info),
    seed: info.seed,
    modules: info.slices.length,
    slices: chosenUnits(adapter).map(({ module, unit, of, chosen }, i) => {
      const { axis, count } = info.slices[i]!
      return { module, axis, count, unit, units: chosen.length, of: of ?? null, chosen }
    }),
  }
}

async function inspectMetrics(path: string): Promise<Part> {
  const file = join(path, 'metrics.jsonl')
  const lines = (await readFile(file, 'utf8')).split('\n').filter((line) => line.trim() !== '')
  const steps: { step: number; loss: number }[] = []
  const evaluations: { step: number; loss: number }[] = []
  for (const line of lines) {
    let entry: { type?: string; step?: number; loss?: number }
    try {
      entry = JSON.parse(line)
    } catch {
      continue // A run that was killed may leave half a line.
    }
    if (typeof entry?.step !== 'number' || typeof entry.loss !== 'number') continue
    const { step, loss } = entry
    ;(entry.type === 'eval' ? evaluations : steps).push({ step, loss })
  }
  const first = steps[0]
  const last = steps.at(-1)
  return {
    type: 'training-run',
    path,
    steps: last?.step ?? 0,
    firstLoss: first?.loss ?? null,
    lastLoss: last?.loss ?? null,
    evaluations,
  }
}

const stateSchema = z.looseObject({
  step: z.number(),
  epoch: z.number(),
  totalSteps: z.number(),
  inputTokens: z.number(),
  run: z.looseObject({ method: z.looseObject({ kind: z.string() }) }),
})

async function inspectCheckpoint(path: string): Promise<Part> {
  const names = (await readdir(path)).sort()
  let size = 0
  for (const name of names) size += (await stat(join(path, name))).size
  const file = join(path, 'trainer_state.json')
  const state = validate(stateSchema, await readJson(file, 'CORRUPT_FILE'), file, 'CORRUPT_FILE')
  const { step, totalSteps, epoch, inputTokens } = state
  const method = state.run.method.kind
  return {
    type: 'checkpoint',
    path,
    ...{ step, totalSteps, epoch, inputTokens, method },
    size: bytes(size),
    files: names,
  }
}
