// Fits an adapter to a model: every name, shape and index is checked before it is fused.
import { S2FTError } from '../errors.js'
import { moduleShape, parseModule } from '../model/modules.js'
import { show } from '../model/validate.js'
import type {
  NativeAdapter,
  NativeDelta,
  NativeElements,
  NativeLora,
  NativeLoreft,
  NativeModelConfig,
} from '../native/binding.js'
import type { Adapter } from './adapter.js'
import { loraName, loraScale, magnitudeName, patternValue } from './lora-format.js'
import { loreftSets, parsePositions } from './loreft-format.js'
import { deltaName, indexName } from './s2ft-format.js'
import { sparseDeltaName, sparseIndexName } from './sparse-format.js'
import { ascendingPlaces, expectShape, floatValues, indexValues } from './values.js'

function shapeIn(config: NativeModelConfig, module: string): [number, number] {
  const place = parseModule(module)
  if (place && place.layer < config.layers) return moduleShape(config, place.kind)
  throw new S2FTError(
    'ADAPTER_MISMATCH',
    `adapter: expected a linear module within ${config.layers} layers, found ${show(module)}`,
  )
}

/**
 * The slices of an S²FT adapter with the model's shapes. Throws ADAPTER_MISMATCH for a module
 * that the model lacks, SHAPE_MISMATCH, CORRUPT_FILE for an index out of range.
 */
export function toDeltas(adapter: Adapter, config: NativeModelConfig): NativeDelta[] {
  if (adapter.info.type !== 's2ft') return []
  return adapter.info.slices.map(({ module, axis, count }) => {
    const [out, input] = shapeIn(config, module)
    const delta = adapter.tensors.get(deltaName(module))!
    expectShape(delta, axis === 'rows' ? [count, input] : [out, count], deltaName(module))
    const limit = axis === 'rows' ? out : input
    const index = indexValues(adapter.tensors.get(indexName(module))!, indexName(module), limit)
    return { module, axis, index, delta: floatValues(delta, deltaName(module)) }
  })
}

/** The changed elements of a sparse adapter. Throws as toDeltas does. */
export function toElements(adapter: Adapter, config: NativeModelConfig): NativeElements[] {
  if (adapter.info.type !== 'sparse') return []
  return adapter.info.masks.map(({ module }) => {
    const [out, input] = shapeIn(config, module)
    const [delta, index] = [sparseDeltaName(module), sparseIndexName(module)]
    return {
      module,
      places: ascendingPlaces(adapter.tensors.get(index)!, index, out * input),
      delta: floatValues(adapter.tensors.get(delta)!, delta),
    }
  })
}

/** The factors of a LoRA or DoRA adapter. Throws as toDeltas does. */
export function toLoras(adapter: Adapter, config: NativeModelConfig): NativeLora[] {
  const { info, patterns } = adapter
  if (info.type !== 'lora') return []
  const names = [...adapter.tensors.keys()].filter((name) => name.endsWith('.lora_A'))
  return names.map((name) => {
    const module = name.slice(0, -'.lora_A'.length)
    const [out, input] = shapeIn(config, module)
    const a = adapter.tensors.get(name)!
    const b = adapter.tensors.get(loraName(module, 'B'))!
    const r = a.shape[0]!
    const expected = patternValue(patterns.ranks, module) ?? info.r
    expectShape(a, [expected, input], name)
    expectShape(b, [out, r], loraName(module, 'B'))
    const factors = {
      module,
      r,
      a: floatValues(a, name),
      b: floatValues(b, loraName(module, 'B')),
      scale: loraScale({ ...info, alphas: patterns.alphas }, module, r),
    }
    if (!info.dora) return factors
    const magnitude = magnitudeName(module)
    const lengths = adapter.tensors.get(magnitude)!
    expectShape(lengths, [out], magnitude)
    return { ...factors, magnitudes: floatValues(lengths, magnitude) }
  })
}

/** The interventions of a LoReFT adapter. Throws as toDeltas does. */
export function toLorefts({ info, tensors }: Adapter, config: NativeModelConfig): NativeLoreft[] {
  if (info.type !== 'loreft') return []
  const { r, shareWeights: shared, positions } = info
  return info.layers.map((layer) => {
    if (layer >= config.layers) {
      throw new S2FTError(
        'ADAPTER_MISMATCH',
        `adapter: expected layers below ${config.layers}, found ${layer}`,
      )
    }
    const sets = loreftSets(info, layer).map((set) => {
      const values = (kind: string, shape: number[]) => {
        const tensor = tensors.get(`${set}.${kind}`)!
        expectShape(tensor, shape, `${set}.${kind}`)
        return floatValues(tensor, `${set}.${kind}`)
      }
      return {
        rotation: values('loreft_R', [r, config.hiddenSize]),
        source: values('loreft_W', [r, config.hiddenSize]),
        bias: values('loreft_b', [r]),
      }
    })
    return { layer, r, shared, sets, ...parsePositions(positions)! }
  })
}

/** `values` times the adapter's weight. Throws INVALID_ARGUMENT when that leaves float32's range. */
function weighted(values: Float32Array, weight: number): Float32Array {
  const scaled = values.map((value) => value * weight)
  const at = scaled.findIndex((value) => !Number.isFinite(value))
  if (at < 0) return scaled
  throw new S2FTError(
    'INVALID_ARGUMENT',
    `weight: expected changes within float32's range, found ${values[at]} times ${weight}`,
  )
}

/**
 * An adapter's change times `weight`. Throws as toDeltas does, INVALID_ARGUMENT for a weight that
 * is not a finite number, UNSUPPORTED for DoRA and LoReFT with another weight than 1.
 */
export function toNative(adapter: Adapter, config: NativeModelConfig, weight = 1): NativeAdapter {
  if (!Number.isFinite(weight)) {
    throw new S2FTError('INVALID_ARGUMENT', `weight: expected a finite number, found ${weight}`)
  }
  const deltas = toDeltas(adapter, config)
  const elements = toElements(adapter, config)
  const loras = toLoras(adapter, config)
  const lorefts = toLorefts(adapter, config)
  if (weight === 1) return { deltas, elements, loras, lorefts }
  if (lorefts.length > 0) {
    throw new S2FTError(
      'UNSUPPORTED',
      `weight: expected 1 for a LoReFT adapter, which changes no weights, found ${weight}`,
    )
  }
  if (loras.some(({ magnitudes }) => magnitudes)) {
    throw new S2FTError(
      'UNSUPPORTED',
      `weight: expected 1 for a DoRA adapter, which sets the lengths of the base's rows and is no sum, found ${weight}`,
    )
  }
  return {
    deltas: deltas.map((part) => ({ ...part, delta: weighted(part.delta, weight) })),
    elements: elements.map((part) => ({ ...part, delta: weighted(part.delta, weight) })),
    loras: loras.map((part) => {
      const [scale] = weighted(Float32Array.of(part.scale), weight)
      return { ...part, scale: scale! }
    }),
  }
}
