// Which adapters are in a model's weights; one of these belongs to every Model.
import { S2FTError } from '../errors.js'
import type { NativeModel, NativeModelConfig } from '../native/binding.js'
import type { Adapter } from './adapter.js'
import { toDeltas, toLoras } from './to-native.js'
import type { FuseOptions } from './types.js'

export class Fusion {
  private readonly ids = new Map<Adapter, string>()
  private count = 0

  constructor(
    private readonly model: NativeModel,
    private readonly config: NativeModelConfig,
    private readonly fingerprint: () => Promise<string>,
  ) {}

  async fuse(adapter: Adapter, { force = false }: FuseOptions): Promise<void> {
    if (this.ids.has(adapter)) {
      throw new S2FTError('INVALID_ARGUMENT', 'expected an adapter that is not fused yet')
    }
    const wanted = adapter.info.baseFingerprint
    if (!force && wanted !== undefined) {
      const found = await this.fingerprint()
      if (found !== wanted) {
        throw new S2FTError(
          'ADAPTER_MISMATCH',
          `the adapter was made for base ${wanted} (${adapter.info.baseModel}), found base ` +
            `${found}; { force: true } fuses it all the same`,
          { details: { expected: wanted, found } },
        )
      }
    }
    const parts =
      adapter.info.type === 's2ft'
        ? { deltas: toDeltas(adapter, this.config) }
        : { loras: toLoras(adapter, this.config) }
    const id = `adapter-${this.count++}`
    this.ids.set(adapter, id)
    try {
      await this.model.fuse(id, parts)
    } catch (error) {
      this.ids.delete(adapter)
      throw error
    }
  }

  async unfuse(adapter: Adapter): Promise<void> {
    const id = this.ids.get(adapter)
    if (id === undefined) {
      throw new S2FTError('INVALID_ARGUMENT', 'expected an adapter that is fused, found none such')
    }
    await this.model.unfuse(id)
    this.ids.delete(adapter)
  }
}
