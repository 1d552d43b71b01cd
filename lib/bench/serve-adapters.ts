// Adapters with random values for o and down: S²FT's columns, and LoRA's factors of equal size.
import { Adapter } from '../adapter/adapter.js'
import { loraName } from '../adapter/lora-format.js'
import { deltaName, indexName } from '../adapter/s2ft-format.js'
import type { AdapterInfo, Tensor } from '../adapter/types.js'
import type { Model } from '../model/model.js'
import { moduleShape } from '../model/modules.js'

export type ServedMethod = 's2ft' | 'lora'

const KINDS = ['o', 'down'] as const
const paths = { o: 'self_attn.o_proj', down: 'mlp.down_proj' } as const

/** Columns of an [out, in] weight that hold as many values as LoRA of that rank. */
export function equalColumns(out: number, input: number, rank: number): number {
  return Math.min(input, Math.max(1, Math.round((rank * (out + input)) / out)))
}

/** Numbers in [0, 1), the same for the same seed. */
function randomNumbers(seed: number): () => number {
  let state = (seed * 2654435761 + 88675123) >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

function values(shape: [number, number], next: () => number): Tensor {
  const data = new Float32Array(shape[0] * shape[1])
  for (let i = 0; i < data.length; i++) data[i] = 0.01 * (next() - 0.5)
  return { dtype: 'F32', shape, data }
}

/** Distinct and ascending: one of each of `count` equal stretches. */
function places(count: number, below: number, next: () => number): Tensor {
  const data = Int32Array.from({ length: count }, (_, i) => {
    const [from, to] = [Math.floor((below * i) / count), Math.floor((below * (i + 1)) / count)]
    return from + Math.floor((to - from) * next())
  })
  return { dtype: 'I32', shape: [count], data }
}

/** An adapter of all layers. LoRA has that rank; S²FT as many parameters, to a column. */
export async function randomAdapter(
  model: Model,
  method: ServedMethod,
  rank: number,
  seed: number,
): Promise<Adapter> {
  const { native } = model.config
  const next = randomNumbers(seed)
  const tensors = new Map<string, Tensor>()
  const slices: { module: string; axis: 'cols'; count: number }[] = []
  for (let layer = 0; layer < native.layers; layer++) {
    for (const kind of KINDS) {
      const module = `model.layers.${layer}.${paths[kind]}`
      const [out, input] = moduleShape(native, kind)
      if (method === 'lora') {
        tensors.set(loraName(module, 'A'), values([rank, input], next))
        tensors.set(loraName(module, 'B'), values([out, rank], next))
        continue
      }
      const count = equalColumns(out, input, rank)
      slices.push({ module, axis: 'cols', count })
      tensors.set(deltaName(module), values([out, count], next))
      tensors.set(indexName(module), places(count, input, next))
    }
  }
  const base = { baseModel: model.directory, baseFingerprint: await model.fingerprint() }
  const info: AdapterInfo =
    method === 'lora'
      ? {
          type: 'lora',
          ...base,
          r: rank,
          alpha: rank,
          dropout: 0,
          rslora: false,
          targetModules: ['down_proj', 'o_proj'],
        }
      : { type: 's2ft', ...base, slices, selection: { strategy: 'explicit' }, seed }
  return new Adapter(info, tensors)
}

/** Tokens that end what a model generates. */
export async function endTokens(model: Model): Promise<number[]> {
  const tokenizer = await model.tokenizer().catch(() => undefined)
  return [...new Set([...model.config.eosTokenIds, ...(tokenizer?.eosTokenIds ?? [])])]
}
