// Collects what was trained into an Adapter.
import { Adapter } from '../adapter/adapter.js'
import { targetNames } from '../adapter/lora-format.js'
import { deltaName, indexName } from '../adapter/s2ft-format.js'
import { sparseDeltaName, sparseIndexName } from '../adapter/sparse-format.js'
import type { S2ftSelection, S2ftSlice } from '../adapter/types.js'
import { S2FTError } from '../errors.js'
import { loreftLayers } from '../method/resolve.js'
import {
  changesBase,
  type LoreftMethod,
  type S2ftMethod,
  type SparseMethod,
} from '../method/types.js'
import type { NativeParameter, Tensor } from '../native/binding.js'
import type { Session } from './session.js'

function selectionOf(method: S2ftMethod): S2ftSelection {
  const { selection, order, calibrationShare: share, allocation, ratios, budget } = method
  return {
    strategy: selection ?? 'explicit',
    ...(order && { order }),
    ...(share !== undefined && { share }),
    ...(allocation && { allocation }),
    ...(ratios && { ratios }),
    ...(budget && { lora_rank: budget.loraRank }),
  }
}

function s2ftAdapter(
  session: Session,
  method: S2ftMethod,
  parameters: readonly NativeParameter[],
  values: readonly Float32Array[],
): Adapter {
  const tensors = new Map<string, Tensor>()
  const slices = parameters.map(({ module, kind, shape, index }, i): S2ftSlice => {
    if ((kind !== 'rows' && kind !== 'cols') || !index) {
      throw new S2FTError('INTERNAL', `expected a slice of ${module}, found ${kind}`)
    }
    tensors.set(deltaName(module), { dtype: 'F32', shape, data: values[i]! })
    tensors.set(indexName(module), { dtype: 'I32', shape: [index.length], data: index })
    return { module, axis: kind, count: index.length }
  })
  const { layers, heads, kvHeads, headDim, intermediateSize } = session.model.config.native
  return new Adapter(
    {
      type: 's2ft',
      baseModel: session.model.directory,
      baseFingerprint: session.baseFingerprint,
      slices,
      selection: selectionOf(method),
      seed: method.seed,
      units: { layers, heads, kv_heads: kvHeads, head_dim: headDim, channels: intermediateSize },
      ...baseQuantization(session),
    },
    tensors,
  )
}

function baseQuantization({ model: { quantization } }: Session) {
  return quantization ? { quantization } : {}
}

function sparseAdapter(
  session: Session,
  method: SparseMethod,
  parameters: readonly NativeParameter[],
  values: readonly Float32Array[],
): Adapter {
  const tensors = new Map<string, Tensor>()
  const masks = parameters.map(({ module, index, shape }, i) => {
    const data = index ?? new Int32Array()
    tensors.set(sparseDeltaName(module), { dtype: 'F32', shape, data: values[i]! })
    tensors.set(sparseIndexName(module), { dtype: 'I32', shape, data })
    return { module, count: data.length }
  })
  return new Adapter(
    {
      type: 'sparse',
      baseModel: session.model.directory,
      baseFingerprint: session.baseFingerprint,
      masks,
      selection: { strategy: method.selection, share: method.share },
      seed: method.seed,
    },
    tensors,
  )
}

/** Values under the names that LoRA's factors and LoReFT's weights have in memory and in gradients. */
function namedTensors(
  parameters: readonly NativeParameter[],
  values: readonly Float32Array[],
): Map<string, Tensor> {
  return new Map(
    parameters.map(({ module, kind, shape }, i): [string, Tensor] => [
      `${module}.${kind}`,
      { dtype: 'F32', shape, data: values[i]! },
    ]),
  )
}

function loreftAdapter(
  session: Session,
  method: LoreftMethod,
  tensors: Map<string, Tensor>,
): Adapter {
  const { r, positions, shareWeights, dropout, seed } = method
  return new Adapter(
    {
      type: 'loreft',
      baseModel: session.model.directory,
      baseFingerprint: session.baseFingerprint,
      layers: loreftLayers(method, session.model.config.native),
      ...{ r, positions, shareWeights, dropout, seed },
    },
    tensors,
  )
}

/** The adapter as it is now. Throws UNSUPPORTED for full(), lisa() and galore(), which change the model. */
export async function makeAdapter(session: Session): Promise<Adapter> {
  const { method } = session.settings
  if (changesBase(method)) {
    throw new S2FTError(
      'UNSUPPORTED',
      `${method.kind} has no adapter: save the model with model.save(directory)`,
    )
  }
  const { parameters, values } = await session.run(async (trainer) => ({
    parameters: trainer.parameters(),
    values: await trainer.values(),
  }))
  if (method.kind === 's2ft') return s2ftAdapter(session, method, parameters, values)
  if (method.kind === 'sparse') return sparseAdapter(session, method, parameters, values)
  const tensors = namedTensors(parameters, values)
  if (method.kind === 'loreft') return loreftAdapter(session, method, tensors)
  const modules = [...new Set(parameters.map(({ module }) => module))]
  return new Adapter(
    {
      type: 'lora',
      baseModel: session.model.directory,
      baseFingerprint: session.baseFingerprint,
      r: method.r,
      alpha: method.alpha,
      dropout: method.dropout,
      rslora: method.rslora,
      ...(method.kind === 'dora' ? { dora: true } : {}),
      targetModules: targetNames(modules, session.model.config.native.layers),
      ...baseQuantization(session),
    },
    tensors,
    { ranks: { ...method.rankPattern }, alphas: { ...method.alphaPattern } },
  )
}
