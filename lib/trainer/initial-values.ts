// Where training starts when it continues from an adapter.
import type { Adapter } from '../adapter/adapter.js'
import { loraScale } from '../adapter/lora-format.js'
import { deltaName, indexName } from '../adapter/s2ft-format.js'
import { sparseDeltaName, sparseIndexName } from '../adapter/sparse-format.js'
import { toDeltas, toElements } from '../adapter/to-native.js'
import { expectShape, floatValues } from '../adapter/values.js'
import { S2FTError } from '../errors.js'
import type { Method } from '../method/types.js'
import type { NativeModelConfig, NativeParameter, Tensor } from '../native/binding.js'

function mismatch(what: string, expected: unknown, found: unknown): never {
  throw new S2FTError(
    'ADAPTER_MISMATCH',
    `initialAdapter: ${what}: expected ${expected} as the method has, found ${found}`,
  )
}

/** The tensors of a parameter's values and, for slices and masks, of their indices. */
function tensorNames(
  module: string,
  kind: NativeParameter['kind'],
): { name: string; indices?: string } {
  if (kind === 'rows' || kind === 'cols') {
    return { name: deltaName(module), indices: indexName(module) }
  }
  if (kind === 'sparse') {
    return { name: sparseDeltaName(module), indices: sparseIndexName(module) }
  }
  return { name: `${module}.${kind}` }
}

/**
 * Places for NativeTrainer.setPlaces: a sparse adapter brings its own, and an S²FT adapter those
 * that data chose. Throws ADAPTER_MISMATCH or SHAPE_MISMATCH when it has others than the method's
 * modules and as many of them.
 */
export function initialPlaces(
  adapter: Adapter,
  config: NativeModelConfig,
  parameters: readonly NativeParameter[],
): Int32Array[] {
  const places = new Map([
    ...toElements(adapter, config).map(({ module, places }) => [module, places] as const),
    ...toDeltas(adapter, config).map(({ module, index }) => [module, index] as const),
  ])
  return parameters.map(({ module, index }) => {
    const found = places.get(module)
    if (!found) mismatch('modules', module, 'none')
    if (found.length !== index!.length) {
      mismatch(`places in ${module}`, index!.length, found.length)
    }
    return found
  })
}

/** The tensor that holds a parameter's values. */
function tensorFor(adapter: Adapter, parameter: NativeParameter): Tensor {
  const { module, kind } = parameter
  const { name, indices } = tensorNames(module, kind)
  const tensor = adapter.tensors.get(name)
  if (!tensor) mismatch('tensors', name, 'none')
  expectShape(tensor, parameter.shape, `initialAdapter: ${name}`)
  if (indices !== undefined) {
    const index = adapter.tensors.get(indices)!.data
    const wanted = parameter.index!
    const at = wanted.findIndex((value, i) => index[i] !== value)
    if (at >= 0) mismatch(`${indices}[${at}]`, wanted[at], index[at])
  }
  return tensor
}

/**
 * Values for NativeTrainer.setValues. The adapter must train what the method trains: the same
 * slices in the same order, factors of the same modules, rank and scale, or LoReFT's weights of the
 * same rank and positions. Throws
 * ADAPTER_MISMATCH or SHAPE_MISMATCH naming the difference.
 */
export function initialValues(
  adapter: Adapter,
  method: Method,
  parameters: readonly NativeParameter[],
): Float32Array[] {
  const { info } = adapter
  const type = info.type === 'lora' && info.dora ? 'dora' : info.type
  if (type !== method.kind) mismatch('type', method.kind, type)
  if (info.type === 'lora' && (method.kind === 'lora' || method.kind === 'dora')) {
    for (const key of ['r', 'alpha', 'rslora'] as const) {
      if (info[key] !== method[key]) mismatch(key, method[key], info[key])
    }
    const wanted = { ...method, alphas: method.alphaPattern ?? {} }
    for (const { module } of parameters) {
      const scales = [wanted, { ...info, ...adapter.patterns }].map((at) =>
        loraScale(at, module, 1),
      )
      if (scales[0] !== scales[1]) mismatch(`alpha of ${module}`, scales[0], scales[1])
    }
  }
  if (info.type === 'loreft' && method.kind === 'loreft') {
    for (const key of ['r', 'positions', 'shareWeights'] as const) {
      if (info[key] !== method[key]) mismatch(key, method[key], info[key])
    }
  }
  const values = parameters.map((parameter) =>
    floatValues(tensorFor(adapter, parameter), parameter.name),
  )
  const tensors = [...adapter.tensors.values()].filter(({ dtype }) => dtype !== 'I32').length
  if (tensors !== values.length) mismatch('number of tensors', values.length, tensors)
  return values
}
