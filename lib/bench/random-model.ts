// Writes a Hugging Face model directory with random weights, a tensor at a time.

import { open, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { makeDirectory } from '../model/make-directory.js'
import { linearShapes, type ShapeConfig } from './shapes.js'

const CHUNK = 1 << 20

/** Tensor names and shapes of a LLaMA checkpoint. */
export function llamaTensors(c: ShapeConfig): { name: string; shape: number[] }[] {
  const tensors = [{ name: 'model.embed_tokens.weight', shape: [c.vocab_size, c.hidden_size] }]
  const linear = linearShapes(c)
  for (let layer = 0; layer < c.num_hidden_layers; layer++) {
    const prefix = `model.layers.${layer}`
    for (const [name, [input, output]] of Object.entries(linear)) {
      const block = name.length === 1 ? 'self_attn' : 'mlp'
      tensors.push({ name: `${prefix}.${block}.${name}_proj.weight`, shape: [output, input] })
    }
    for (const norm of ['input_layernorm', 'post_attention_layernorm']) {
      tensors.push({ name: `${prefix}.${norm}.weight`, shape: [c.hidden_size] })
    }
  }
  tensors.push({ name: 'model.norm.weight', shape: [c.hidden_size] })
  if (!c.tie_word_embeddings) {
    tensors.push({ name: 'lm_head.weight', shape: [c.vocab_size, c.hidden_size] })
  }
  return tensors
}

/** Bytes of the weights in a file of that element type. */
export function weightBytes(config: ShapeConfig, dtype: 'bf16' | 'f32'): number {
  const values = llamaTensors(config).map(({ shape }) => shape.reduce((a, b) => a * b, 1))
  return values.reduce((a, b) => a + b, 0) * (dtype === 'bf16' ? 2 : 4)
}

/** Normal numbers drawn once; weights pick from them, which is fast and random enough to time. */
function normalTable(deviation: number, next: () => number): Float32Array {
  const table = new Float32Array(65536)
  for (let i = 0; i < table.length; i++) {
    const radius = Math.sqrt(-2 * Math.log((next() + 1) / 4294967297))
    table[i] = deviation * radius * Math.cos((2 * Math.PI * next()) / 4294967296)
  }
  return table
}

function xorshift(seed: number): () => number {
  let state = (seed * 2654435761 + 88675123) >>> 0 || 1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state = (state ^ (state << 5)) >>> 0
    return state
  }
}

/** Bits of the nearest bf16 numbers, ties to even. */
function toBf16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  return Uint16Array.from(bits, (b) => (b + 0x7fff + ((b >>> 16) & 1)) >>> 16)
}

/**
 * Makes `directory` a model with weights of the given element type: normal numbers of
 * deviation 1/√hidden_size, norms of 1. The same seed gives the same bytes.
 */
export async function writeRandomModel(
  directory: string,
  config: ShapeConfig,
  dtype: 'bf16' | 'f32',
  seed = 0,
): Promise<void> {
  await makeDirectory(directory)
  const hub = {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_act: 'silu',
    max_position_embeddings: 8192,
    rms_norm_eps: 1e-5,
    attention_bias: false,
    mlp_bias: false,
    bos_token_id: 1,
    eos_token_id: 2,
    torch_dtype: dtype === 'bf16' ? 'bfloat16' : 'float32',
    ...config,
  }
  await writeFile(join(directory, 'config.json'), JSON.stringify(hub, null, 2))

  const next = xorshift(seed)
  const table = normalTable(1 / Math.sqrt(config.hidden_size), next)
  const pick = dtype === 'bf16' ? toBf16(table) : table
  const one = dtype === 'bf16' ? 0x3f80 : 1
  const tensors = llamaTensors(config)
  const header: Record<string, unknown> = {}
  let offset = 0
  for (const { name, shape } of tensors) {
    const bytes = shape.reduce((a, b) => a * b, 1) * pick.BYTES_PER_ELEMENT
    header[name] = {
      dtype: dtype === 'bf16' ? 'BF16' : 'F32',
      shape,
      data_offsets: [offset, offset + bytes],
    }
    offset += bytes
  }
  const text = JSON.stringify(header)
  const json = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8, ' '))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))

  await using file = await open(join(directory, 'model.safetensors'), 'w')
  await file.write(length)
  await file.write(json)
  const chunk = pick instanceof Uint16Array ? new Uint16Array(CHUNK) : new Float32Array(CHUNK)
  for (const { shape } of tensors) {
    let left = shape.reduce((a, b) => a * b, 1)
    while (left > 0) {
      const count = Math.min(left, CHUNK)
      if (shape.length === 1) chunk.fill(one, 0, count)
      else for (let i = 0; i < count; i++) chunk[i] = pick[next() & 0xffff]!
      await file.write(new Uint8Array(chunk.buffer, 0, count * chunk.BYTES_PER_ELEMENT))
      left -= count
    }
  }
}
