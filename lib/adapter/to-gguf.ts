// A LoRA adapter in llama.cpp's GGUF format, as its convert_lora_to_gguf.py names and orders it.
import { S2FTError } from '../errors.js'
import { parseModule } from '../model/modules.js'
import type { ModelConfig } from '../model/types.js'
import { show } from '../model/validate.js'
import type { ModuleKind, NativeModelConfig } from '../native/binding.js'
import type { Adapter } from './adapter.js'
import { GGUF_DTYPES, type GgufDType, type GgufEntry, type GgufTensor } from './gguf-file.js'
import { toLora } from './to-lora.js'
import { toLoras } from './to-native.js'
import { toBfloat16, toFloat16 } from './values.js'

/** llama.cpp's architecture; the first also names Mistral and takes q and k permuted. */
const ARCHITECTURES: Record<string, string> = {
  LlamaForCausalLM: 'llama',
  MistralForCausalLM: 'llama',
  Qwen2ForCausalLM: 'qwen2',
  Qwen3ForCausalLM: 'qwen3',
}

const NAMES: Record<ModuleKind, string> = {
  q: 'attn_q',
  k: 'attn_k',
  v: 'attn_v',
  o: 'attn_output',
  gate: 'ffn_gate',
  up: 'ffn_up',
  down: 'ffn_down',
}

/** llama_ftype of files that are F32, mostly F16, mostly BF16. */
const FILE_TYPES: Record<GgufDType, number> = { F32: 0, F16: 1, BF16: 32 }

/**
 * Rows of B [out, r] in the order of llama.cpp's LLaMA: Hugging Face rotates a head's first half
 * with its second, llama.cpp neighbours, so row half + i goes to 2i + 1.
 */
function interleaveHalves(b: Float32Array, heads: number, r: number): Float32Array {
  const size = b.length / r / heads
  const half = size / 2
  const result = new Float32Array(b.length)
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < size; i++) {
      const from = head * size + i
      const to = head * size + (i < half ? 2 * i : 2 * (i - half) + 1)
      result.set(b.subarray(from * r, (from + 1) * r), to * r)
    }
  }
  return result
}

function rotatedHeads(kind: ModuleKind, config: NativeModelConfig): number {
  if (kind === 'q') return config.heads
  return kind === 'k' ? config.kvHeads : 0
}

function stored(values: Float32Array, dtype: GgufDType, name: string) {
  if (dtype === 'F32') return values
  return dtype === 'F16' ? toFloat16(values, name) : toBfloat16(values, name)
}

export interface GgufAdapter {
  entries: GgufEntry[]
  tensors: GgufTensor[]
}

/**
 * The adapter's LoRA form for llama.cpp. It scales a module of rank r by alpha / r with one alpha
 * for all, and by 1 where alpha is 0: where the modules' own alphas differ, alpha is 0 and B holds
 * the scale, which for S²FT is 1 and loses nothing. Throws UNSUPPORTED for DoRA, sparse adapters and
 * architectures without a converter, NOT_FINITE for values beyond `dtype`, and as toLora does.
 */
export function toGguf(
  adapter: Adapter,
  { architecture, native }: Pick<ModelConfig, 'architecture' | 'native'>,
  options: { dtype?: GgufDType; name?: string } = {},
): GgufAdapter {
  const { dtype = 'F32', name = 's2ft adapter' } = options
  if (!(dtype in GGUF_DTYPES)) {
    throw new S2FTError(
      'INVALID_ARGUMENT',
      `dtype: expected F32, F16 or BF16, found ${show(dtype)}`,
    )
  }
  const arch = ARCHITECTURES[architecture]
  if (arch === undefined) {
    const known = Object.keys(ARCHITECTURES).join(', ')
    throw new S2FTError('UNSUPPORTED', `GGUF: expected ${known}, found ${show(architecture)}`)
  }
  const lora = toLora(adapter, native)
  const loras = toLoras(lora, native)
  if (loras.some(({ magnitudes }) => magnitudes)) {
    throw new S2FTError(
      'UNSUPPORTED',
      'GGUF: llama.cpp has no DoRA: use s2ft merge and convert the merged model',
    )
  }
  const alphas = new Set(loras.map(({ scale, r }) => scale * r))
  const [first = 0] = alphas
  const alpha = alphas.size === 1 ? first : 0
  const tensors = loras.flatMap(({ module, r, a, b, scale }): GgufTensor[] => {
    const { layer, kind } = parseModule(module)!
    const base = `blk.${layer}.${NAMES[kind]}.weight`
    const scaled = alpha !== 0 || scale === 1 ? b : b.map((value) => value * scale)
    const heads = arch === 'llama' ? rotatedHeads(kind, native) : 0
    const rows = heads === 0 ? scaled : interleaveHalves(scaled, heads, r)
    const tensor = (factor: string, values: Float32Array, shape: number[]) => ({
      name: `${base}.${factor}`,
      dtype,
      shape,
      data: stored(values, dtype, `${module}.${factor}`),
    })
    return [tensor('lora_a', a, [r, a.length / r]), tensor('lora_b', rows, [b.length / r, r])]
  })
  const { baseModel, baseFingerprint } = adapter.info
  const entries: GgufEntry[] = [
    ['general.architecture', arch],
    ['general.type', 'adapter'],
    ['general.name', name],
    ['general.file_type', { u32: FILE_TYPES[dtype] }],
    ['general.quantization_version', { u32: 2 }],
    ['general.base_model.count', { u32: 1 }],
    ['general.base_model.0.name', baseModel],
    ['adapter.type', 'lora'],
    ['adapter.lora.alpha', { f32: alpha }],
  ]
  if (baseFingerprint !== undefined) entries.push(['s2ft.base_fingerprint', baseFingerprint])
  return { entries, tensors }
}
