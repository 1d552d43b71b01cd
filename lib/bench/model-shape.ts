// The model that a benchmark runs on: a built-in shape with random weights, or a directory.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { S2FTError } from '../errors.js'
import { parseModelConfig } from '../model/config.js'
import { writeRandomModel } from './random-model.js'
import { type ShapeConfig, shapes } from './shapes.js'

async function shapeOfDirectory(directory: string): Promise<ShapeConfig> {
  const file = join(directory, 'config.json')
  let raw: unknown
  try {
    raw = JSON.parse(await readFile(file, 'utf8'))
  } catch (cause) {
    const known = Object.keys(shapes).join(', ')
    const message = `--model: expected ${known} or a model directory: ${(cause as Error).message}`
    throw new S2FTError('IO', message, { cause })
  }
  const config = parseModelConfig(raw, file).native
  return {
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.layers,
    num_attention_heads: config.heads,
    num_key_value_heads: config.kvHeads,
    head_dim: config.headDim,
    vocab_size: config.vocabSize,
    tie_word_embeddings: config.tieWordEmbeddings,
    rope_theta: config.rope.theta,
  }
}

/**
 * The shape of a built-in model or of a model directory.
 * @throws S2FTError IO when it is neither, INVALID_CONFIG and the like for a broken config.json
 */
export async function shapeOf(model: string): Promise<ShapeConfig> {
  return shapes[model] ?? (await shapeOfDirectory(model))
}

/** Model directories by element type: random weights below `scratch`, or the user's own. */
export async function modelDirectories<D extends 'bf16' | 'f32'>(
  model: string,
  dtypes: Iterable<D>,
  scratch: string,
): Promise<Record<D, string>> {
  const directories = {} as Record<D, string>
  for (const dtype of new Set(dtypes)) {
    const shape = shapes[model]
    directories[dtype] = shape ? join(scratch, `${model}-${dtype}`) : model
    if (shape) await writeRandomModel(directories[dtype], shape, dtype)
  }
  return directories
}
