// What a method trains, in numbers: told before training, so that methods can be compared.
import { loraSize } from '../method/resolve-s2ft.js'
import type { Method } from '../method/types.js'
import type { Model } from '../model/model.js'
import { MODULE_KINDS, parseModule } from '../model/modules.js'
import type { NativeParameter } from '../native/binding.js'

export interface TrainingBudget {
  /** LISA: of the layers that train first. */
  trainableParameters: number
  /**
   * By what they belong to, over all layers: `q` … `down` (LoRA's factors count to their module),
   * then `embed_tokens`, norms and `lm_head` as the checkpoint names them.
   */
  trainableByModule: Record<string, number>
  /** The rank, as a fraction, at which LoRA on all linear layers trains as many. */
  equalLoraRank: number
}

const size = (shape: readonly number[]) => shape.reduce((product, length) => product * length, 1)

/** `down` of model.layers.3.mlp.down_proj, `norm` of model.norm, `layer` of model.layers.3. */
function label(module: string): string {
  const found = parseModule(module)
  if (found) return found.kind
  return /\.layers\.\d+$/.test(module) ? 'layer' : module.slice(module.lastIndexOf('.') + 1)
}

/** GaLore trains all weights; its parameters are their projections. */
function counts(model: Model, method: Method, parameters: readonly NativeParameter[]) {
  if (method.kind !== 'galore') {
    return parameters.map(({ module, shape }) => ({ module, count: size(shape) }))
  }
  return model
    .native()
    .tensors()
    .map(({ name, shape }) => ({
      module: name.replace(/\.(weight|bias)$/, ''),
      count: size(shape),
    }))
}

export function trainingBudget(
  model: Model,
  method: Method,
  parameters: readonly NativeParameter[],
): TrainingBudget {
  const byModule = new Map<string, number>(MODULE_KINDS.map((kind) => [kind, 0]))
  let total = 0
  for (const { module, count } of counts(model, method, parameters)) {
    const key = label(module)
    byModule.set(key, (byModule.get(key) ?? 0) + count)
    total += count
  }
  const config = model.config.native
  return {
    trainableParameters: total,
    trainableByModule: Object.fromEntries([...byModule].filter(([, count]) => count > 0)),
    equalLoraRank: total / (loraSize(config, 1) * config.layers),
  }
}
