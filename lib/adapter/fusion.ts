// Which adapters are in a model's weights; one of these belongs to every Model.
import { S2FTError } from '../errors.js'
import { show } from '../model/validate.js'
import type { NativeModel, NativeModelConfig } from '../native/binding.js'
import type { Adapter } from './adapter.js'
import { toDeltas, toElements, toLoras, toLorefts } from './to-native.js'
import type { AdapterInfo, FuseOptions } from './types.js'

/** Throws ADAPTER_MISMATCH naming both fingerprints; an adapter that knows none fits any base. */
export function requireSameBase(info: AdapterInfo, found: string): void {
  const wanted = info.baseFingerprint
  if (wanted === undefined || wanted === found) return
  throw new S2FTError(
    'ADAPTER_MISMATCH',
    `the adapter was made for base ${show(wanted)} (${show(info.baseModel)}), found base ` +
      `${show(found)}; fusing with { force: true } ignores this`,
    { details: { expected: wanted, found } },
  )
}

export class Fusion {
  private readonly ids = new Map<Adapter, string>()
  private made = 0

  constructor(
    private readonly model: NativeModel,
    private readonly config: NativeModelConfig,
    private readonly fingerprint: () => Promise<string>,
  ) {}

  /** Adapters in the weights now. */
  get count(): number {
    return this.ids.size
  }

  async fuse(adapter: Adapter, { force = false }: FuseOptions): Promise<void> {
    if (this.ids.has(adapter)) {
      throw new S2FTError('INVALID_ARGUMENT', 'expected an adapter that is not fused yet')
    }
    if (!force) requireSameBase(adapter.info, await this.fingerprint())
    const parts = {
      deltas: toDeltas(adapter, this.config),
      elements: toElements(adapter, this.config),
      loras: toLoras(adapter, this.config),
      lorefts: toLorefts(adapter, this.config),
    }
    const id = `adapter-${this.made++}`
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
