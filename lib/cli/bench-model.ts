// The model a benchmark runs on: a shape by name, filled with random weights, or a directory.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type ShapeConfig, shapes } from '../bench/shapes.js'
import { S2FTError } from '../errors.js'

/** The shape of that name, or of the model in that directory. Throws IO, INVALID_CONFIG. */
export async function benchShape(model: string): Promise<ShapeConfig> {
  return Object.hasOwn(shapes, model) ? shapes[model]! : shapeOf(model)
}

async function shapeOf(directory: string): Promise<ShapeConfig> {
  const file = join(directory, 'config.json')
  const { parseModelConfig } = await import('../model/config.js')
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

/** Where its weights are: `model` itself, or random weights made below `scratch`. */
export async function benchDirectory(
  model: string,
  shape: ShapeConfig,
  dtype: 'bf16' | 'f32',
  scratch: string,
): Promise<string> {
  if (!Object.hasOwn(shapes, model)) return model
  const { writeRandomModel } = await import('../bench/random-model.js')
  const directory = join(scratch, `${model}-${dtype}`)
  await writeRandomModel(directory, shape, dtype)
  return directory
}
