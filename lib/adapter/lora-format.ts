// LoRA adapters in PEFT's own format, both ways.
import { z } from 'zod'
import { S2FTError } from '../errors.js'
import { parseModule } from '../model/modules.js'
import { show, validate } from '../model/validate.js'
import type { Tensor } from '../native/binding.js'
import type { LoraAdapterInfo } from './types.js'
import { expectShape, floatValues } from './values.js'

const PREFIX = 'base_model.model.'

const pattern = z.record(z.string(), z.number().positive()).nullish()
const schema = z.looseObject({
  peft_type: z.literal('LORA'),
  base_model_name_or_path: z.string().nullish(),
  r: z.number().int().positive(),
  lora_alpha: z.number().positive(),
  lora_dropout: z.number().min(0).lt(1).nullish(),
  use_rslora: z.boolean().nullish(),
  use_dora: z.boolean().nullish(),
  target_modules: z.union([z.string(), z.array(z.string())]).nullish(),
  rank_pattern: pattern,
  alpha_pattern: pattern,
})

/** Settings that change what the tensors mean, with the only value that is understood. */
const PLAIN = {
  bias: 'none',
  lora_bias: false,
  fan_in_fan_out: false,
  use_qalora: false,
  use_bdlora: null,
  modules_to_save: null,
  layer_replication: null,
  trainable_token_indices: null,
  target_parameters: null,
  alora_invocation_tokens: null,
} as const

export interface LoraConfig {
  info: LoraAdapterInfo
  /** Keys are module names or their ends, as in PEFT. */
  ranks: Record<string, number>
  alphas: Record<string, number>
}

/** A factor's name in memory; gradients have the same. */
export function loraName(module: string, factor: 'A' | 'B'): string {
  return `${module}.lora_${factor}`
}

export function magnitudeName(module: string): string {
  return `${module}.lora_magnitude_vector`
}

function foreignTensor(name: string, where: string): S2FTError {
  return new S2FTError(
    'UNSUPPORTED',
    `${where}: expected lora_A, lora_B and, with use_dora, lora_magnitude_vector of linear ` +
      `layers, found ${show(name)}`,
  )
}

/** Tensors by their names in PEFT's file. */
export function toPeftNames(tensors: ReadonlyMap<string, Tensor>): Map<string, Tensor> {
  const suffix = (name: string) => (name.endsWith('.lora_magnitude_vector') ? '' : '.weight')
  return new Map([...tensors].map(([name, tensor]) => [PREFIX + name + suffix(name), tensor]))
}

/** Tensors of PEFT's file by their names in memory. Throws UNSUPPORTED for other tensors. */
export function fromPeftNames(tensors: Record<string, Tensor>, where: string): Map<string, Tensor> {
  const renamed = Object.entries(tensors).map(([name, tensor]): [string, Tensor] => {
    const factor = /^base_model\.model\.(.+\.lora_[AB])\.weight$/.exec(name)
    const match = factor ?? /^base_model\.model\.(.+\.lora_magnitude_vector)$/.exec(name)
    if (match) return [match[1]!, tensor]
    throw foreignTensor(name, where)
  })
  return new Map(renamed)
}

/** Every field of PEFT's LoraConfig, so that any of its versions reads the file. */
export function loraConfig({ info, ranks, alphas }: LoraConfig): Record<string, unknown> {
  return {
    alora_invocation_tokens: null,
    alpha_pattern: alphas,
    arrow_config: null,
    auto_mapping: null,
    base_model_name_or_path: info.baseModel,
    bias: 'none',
    corda_config: null,
    ensure_weight_tying: false,
    eva_config: null,
    exclude_modules: null,
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    layer_replication: null,
    layers_pattern: null,
    layers_to_transform: null,
    loftq_config: {},
    lora_alpha: info.alpha,
    lora_bias: false,
    lora_dropout: info.dropout,
    megatron_config: null,
    megatron_core: 'megatron.core',
    modules_to_save: null,
    peft_type: 'LORA',
    qalora_group_size: 16,
    r: info.r,
    rank_pattern: ranks,
    revision: null,
    target_modules: info.targetModules,
    target_parameters: null,
    task_type: 'CAUSAL_LM',
    trainable_token_indices: null,
    use_dora: info.dora ?? false,
    use_qalora: false,
    use_rslora: info.rslora,
  }
}

/** Throws CORRUPT_FILE naming the field, UNSUPPORTED for kinds of LoRA that change the model. */
export function parseLoraConfig(raw: unknown, file: string): LoraConfig {
  const found = validate(schema, raw, file, 'CORRUPT_FILE')
  for (const [key, plain] of Object.entries(PLAIN)) {
    const value = found[key]
    const empty = Array.isArray(value) && value.length === 0
    if (value === undefined || value === null || value === plain || empty) continue
    throw new S2FTError(
      'UNSUPPORTED',
      `${file}: ${key}: expected ${show(plain)} (plain LoRA on linear layers), found ${show(value)}`,
    )
  }
  for (const key of ['rank_pattern', 'alpha_pattern'] as const) {
    // PEFT matches keys as regular expressions; text from outside is not run as one here.
    const odd = Object.keys(found[key] ?? {}).find((name) => !/^\^?[\w.]+$/.test(name))
    if (odd !== undefined) {
      throw new S2FTError(
        'UNSUPPORTED',
        `${file}: ${key}: expected module names, found the expression ${show(odd)}`,
      )
    }
  }
  const targets = found.target_modules
  return {
    ranks: found.rank_pattern ?? {},
    alphas: found.alpha_pattern ?? {},
    info: {
      type: 'lora',
      baseModel: found.base_model_name_or_path ?? '',
      r: found.r,
      alpha: found.lora_alpha,
      dropout: found.lora_dropout ?? 0,
      rslora: found.use_rslora ?? false,
      ...(found.use_dora ? { dora: true } : {}),
      targetModules: Array.isArray(targets) ? [...targets].sort() : [],
    },
  }
}

/** PEFT's target_modules for exactly these modules: a short name where every layer has it. */
export function targetNames(modules: readonly string[], layers: number): string[] {
  const byKind = new Map<string, string[]>()
  for (const module of modules) {
    const kind = module.slice(module.lastIndexOf('.') + 1)
    byKind.set(kind, [...(byKind.get(kind) ?? []), module])
  }
  const names = [...byKind].flatMap(([kind, full]) => (full.length === layers ? [kind] : full))
  return names.sort()
}

/** PEFT's lookup: a key names a module when it equals the name or its dotted end. */
export function patternValue(values: Record<string, number>, module: string): number | undefined {
  const key = Object.keys(values).find((given) => {
    const name = given.replace(/^\^/, '')
    return module === name || (!given.startsWith('^') && module.endsWith(`.${name}`))
  })
  return key === undefined ? undefined : values[key]
}

/** Scale of a module's factors: alpha / r, or alpha / sqrt(r), with its own alpha and rank. */
export function loraScale(
  { alpha, rslora, alphas }: { alpha: number; rslora: boolean; alphas: Record<string, number> },
  module: string,
  r: number,
): number {
  return (patternValue(alphas, module) ?? alpha) / (rslora ? Math.sqrt(r) : r)
}

/**
 * Modules in file order, each with both factors and, for DoRA, its magnitudes. Throws CORRUPT_FILE,
 * SHAPE_MISMATCH or UNSUPPORTED.
 */
export function checkLoraTensors(
  { dora = false }: LoraAdapterInfo,
  tensors: ReadonlyMap<string, Tensor>,
  where: string,
): string[] {
  const modules = new Set<string>()
  for (const name of tensors.keys()) {
    const match = /^(.+)\.(?:lora_[AB]|(lora_magnitude_vector))$/.exec(name)
    if (!match || !parseModule(match[1]!) || (match[2] && !dora)) throw foreignTensor(name, where)
    modules.add(match[1]!)
  }
  if (modules.size === 0) {
    throw new S2FTError('CORRUPT_FILE', `${where}: expected at least one module, found none`)
  }
  const checked = (name: string, shape: (number | undefined)[]): Tensor => {
    const tensor = tensors.get(name)
    if (!tensor) {
      throw new S2FTError('CORRUPT_FILE', `${where}: expected tensor ${name}, found none`)
    }
    expectShape(tensor, shape, `${where}: ${name}`)
    floatValues(tensor, `${where}: ${name}`)
    return tensor
  }
  for (const module of modules) {
    const a = checked(loraName(module, 'A'), [undefined, undefined])
    const b = checked(loraName(module, 'B'), [undefined, a.shape[0]])
    if (dora) checked(magnitudeName(module), [b.shape[0]])
  }
  return [...modules]
}
