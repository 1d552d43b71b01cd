// Adapters scaled by a weight, so that several can be in one model at once.
import { Adapter } from '../adapter/adapter.js'
import { S2FTError } from '../errors.js'
import type { Tensor } from '../native/binding.js'

/** Tensors that a change of weights is proportional to. */
const LINEAR = ['.s2ft_delta', '.sparse_delta', '.lora_B']

/** The same adapter with its change multiplied. Throws UNSUPPORTED for DoRA's, which is not linear. */
export function scaledAdapter(adapter: Adapter, weight: number): Adapter {
  if (adapter.info.type === 'lora' && adapter.info.dora) {
    throw new S2FTError('UNSUPPORTED', 'the change of a DoRA adapter has no factor to scale')
  }
  const tensors = new Map<string, Tensor>()
  for (const [name, tensor] of adapter.tensors) {
    if (!LINEAR.some((end) => name.endsWith(end))) {
      tensors.set(name, tensor)
      continue
    }
    if (!(tensor.data instanceof Float32Array)) {
      throw new S2FTError('INVALID_ARGUMENT', `${name}: expected F32 values, found ${tensor.dtype}`)
    }
    tensors.set(name, { ...tensor, data: tensor.data.map((value) => weight * value) })
  }
  return new Adapter(adapter.info, tensors, adapter.patterns)
}
