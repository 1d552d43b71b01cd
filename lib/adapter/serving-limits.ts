// What servers written by others take of a LoRA adapter, so that an export says it beforehand.
import type { NativeModelConfig } from '../native/binding.js'
import type { Adapter } from './adapter.js'
import { toLoras } from './to-native.js'

/** Values of vLLM's --max-lora-rank, whose default is 16. */
const VLLM_RANKS = [8, 16, 32, 64, 128, 256, 320, 512]
const VLLM_DEFAULT = 16
/** Default of mistral.rs's --lora-max-rank. */
const MISTRAL_RS_DEFAULT = 256

export interface ServingLimits {
  /** Largest rank of a module, and that module. */
  rank: number
  module: string
  /** What --max-lora-rank of vLLM has to be; undefined when it takes no such adapter. */
  vllmMaxLoraRank?: number
  /** What whoever serves the adapter has to know. */
  notes: string[]
}

/** Of a LoRA or DoRA adapter. Throws as fusing it would. */
export function servingLimits(adapter: Adapter, config: NativeModelConfig): ServingLimits {
  const { info } = adapter
  const loras = toLoras(adapter, config)
  const { r: rank, module } = loras.reduce((most, lora) => (lora.r > most.r ? lora : most))
  const notes: string[] = []
  if (info.type === 'lora' && info.dora) {
    notes.push('vLLM, mistral.rs and llama.cpp take no DoRA: merge for them')
    return { rank, module, notes }
  }
  // vLLM scales every module by lora_alpha and r, whatever rank_pattern and alpha_pattern say.
  const scale = info.type !== 'lora' ? 1 : info.alpha / (info.rslora ? Math.sqrt(info.r) : info.r)
  const uniform = loras.every((lora) => Math.abs(lora.scale - scale) <= 1e-6 * scale)
  const vllmMaxLoraRank = VLLM_RANKS.find((allowed) => allowed >= rank)
  if (!uniform) {
    notes.push('vLLM ignores rank_pattern and alpha_pattern and would scale some modules wrongly')
  } else if (vllmMaxLoraRank === undefined) {
    notes.push(`vLLM takes ranks up to ${VLLM_RANKS.at(-1)}, found ${rank}: merge for it`)
  } else if (rank > VLLM_DEFAULT) {
    notes.push(`vLLM needs --max-lora-rank ${vllmMaxLoraRank} (default ${VLLM_DEFAULT})`)
  }
  if (rank > MISTRAL_RS_DEFAULT) {
    notes.push(`mistral.rs needs --lora-max-rank ${rank} (default ${MISTRAL_RS_DEFAULT})`)
  }
  const served = uniform && vllmMaxLoraRank !== undefined
  return { rank, module, ...(served && { vllmMaxLoraRank }), notes }
}
