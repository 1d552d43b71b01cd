// An S²FT adapter as a LoRA adapter: exact, by a one-hot factor.
import { S2FTError } from '../errors.js'
import { moduleShape, parseModule } from '../model/modules.js'
import type { NativeDelta, NativeModelConfig, Tensor } from '../native/binding.js'
import { Adapter } from './adapter.js'
import { loraName, targetNames } from './lora-format.js'
import { refuseLoreft } from './loreft-format.js'
import { toDeltas } from './to-native.js'

function oneHot(rows: number, cols: number, ones: (i: number) => [number, number], count: number) {
  const data = new Float32Array(rows * cols)
  for (let i = 0; i < count; i++) {
    const [row, col] = ones(i)
    data[row * cols + col] = 1
  }
  return { dtype: 'F32' as const, shape: [rows, cols], data }
}

/**
 * Factors A [s, in] and B [out, s] with B·A = the slice's change at its original indices.
 * `cols`: A = one-hot, B = Δ [out, s]; `rows`: A = Δ [s, in], B = one-hot.
 */
function factors(slice: NativeDelta, shape: [number, number]): { a: Tensor; b: Tensor } {
  const [out, input] = shape
  const { axis, index, delta } = slice
  const s = index.length
  if (axis === 'cols') {
    const b: Tensor = { dtype: 'F32', shape: [out, s], data: delta }
    return { a: oneHot(s, input, (i) => [i, index[i]!], s), b }
  }
  const a: Tensor = { dtype: 'F32', shape: [s, input], data: delta }
  return { a, b: oneHot(out, s, (i) => [index[i]!, i], s) }
}

/**
 * The same change as a LoRA of rank s and alpha s per module, so that its scale is 1 and no
 * decomposition is needed (design: an S²FT slice is a LoRA with a one-hot factor). A LoRA adapter
 * is returned as it is. Throws ADAPTER_MISMATCH or SHAPE_MISMATCH when it does not fit `config`, UNSUPPORTED
 * for a sparse or LoReFT adapter.
 */
export function toLora(adapter: Adapter, config: NativeModelConfig): Adapter {
  const { info } = adapter
  if (info.type === 'lora') return adapter
  if (info.type === 'loreft') refuseLoreft('expected an adapter with a low-rank form')
  if (info.type === 'sparse') {
    throw new S2FTError(
      'UNSUPPORTED',
      'a sparse adapter has no low-rank form: single elements anywhere are of full rank; merge it',
    )
  }
  const tensors = new Map<string, Tensor>()
  const counts: Record<string, number> = {}
  for (const slice of toDeltas(adapter, config)) {
    const { kind } = parseModule(slice.module)!
    const { a, b } = factors(slice, moduleShape(config, kind))
    tensors.set(loraName(slice.module, 'A'), a)
    tensors.set(loraName(slice.module, 'B'), b)
    counts[slice.module] = slice.index.length
  }
  const r = Math.max(...Object.values(counts))
  const others = Object.fromEntries(Object.entries(counts).filter(([, s]) => s !== r))
  return new Adapter(
    {
      type: 'lora',
      baseModel: info.baseModel,
      baseFingerprint: info.baseFingerprint,
      r,
      alpha: r,
      dropout: 0,
      rslora: false,
      targetModules: targetNames(Object.keys(counts), config.layers),
    },
    tensors,
    { ranks: others, alphas: { ...others } },
  )
}
