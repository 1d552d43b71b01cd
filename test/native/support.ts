// A model that is large enough for a step to take a while, and the compiled package for
// processes and threads of their own.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { packageRoot } from '../../lib/native/load.js'
import { copyModel } from '../support/directories.js'
import { type RawTensor, writeSafetensors } from '../support/safetensors.js'

const entry = join(packageRoot, 'dist', 'index.js')
if (!existsSync(entry)) throw new Error(`${entry} is missing: run npm run build first`)

/** Import specifier of the compiled package. */
export const compiledPackage = pathToFileURL(entry).href

/** A Hugging Face directory of 4 layers, 512 wide, f32 noise. */
export async function wideModel(): Promise<string> {
  const [d, k, vocab, layers] = [512, 1408, 256, 4]
  const directory = copyModel('llama-gqa', {
    config: (config) =>
      Object.assign(config, {
        hidden_size: d,
        intermediate_size: k,
        num_hidden_layers: layers,
        num_attention_heads: 8,
        num_key_value_heads: 4,
        head_dim: d / 8,
        vocab_size: vocab,
        tie_word_embeddings: true,
      }),
  })
  const tensors = new Map<string, RawTensor>()
  let state = 1
  const add = (name: string, ...shape: number[]) => {
    const count = shape.reduce((a, b) => a * b, 1)
    const data = new Float32Array(count)
    for (let i = 0; i < count; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) | 0
      data[i] = shape.length === 1 ? 1 : (state / 2 ** 31) * 0.05
    }
    tensors.set(name, { dtype: 'F32', shape, bytes: new Uint8Array(data.buffer) })
  }
  add('model.embed_tokens.weight', vocab, d)
  for (let i = 0; i < layers; i++) {
    const layer = `model.layers.${i}`
    add(`${layer}.input_layernorm.weight`, d)
    add(`${layer}.post_attention_layernorm.weight`, d)
    add(`${layer}.self_attn.q_proj.weight`, d, d)
    add(`${layer}.self_attn.k_proj.weight`, d / 2, d)
    add(`${layer}.self_attn.v_proj.weight`, d / 2, d)
    add(`${layer}.self_attn.o_proj.weight`, d, d)
    add(`${layer}.mlp.gate_proj.weight`, k, d)
    add(`${layer}.mlp.up_proj.weight`, k, d)
    add(`${layer}.mlp.down_proj.weight`, d, k)
  }
  add('model.norm.weight', d)
  writeSafetensors(join(directory, 'model.safetensors'), tensors)
  return directory
}
