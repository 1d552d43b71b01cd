// Which adapters are in a model's weights; one of these belongs to every Model.
import { S2FTError } from '../errors.js'
import { moduleShape, parseModule } from '../model/modules.js'
import { show } from '../model/validate.js'
import type { NativeModel, NativeModelConfig } from '../native/binding.js'
import type { Adapter } from './adapter.js'
import { adapterOverlap } from './overlap.js'
import { toNative } from './to-native.js'
import type { AdapterInfo, FuseOptions, FuseResult } from './types.js'

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
  private readonly fused = new Map<Adapter, { id: string; weight: number }>()
  private made = 0
  /** Changes come one after another: each is decided by what the one before left. */
  private last: Promise<unknown> = Promise.resolve()

  constructor(
    private readonly model: NativeModel,
    private readonly config: NativeModelConfig,
    private readonly fingerprint: () => Promise<string>,
    /** Throws while the weights may not change; asked just before each change. */
    private readonly requireFree: () => void,
  ) {}

  /** Adapters in the weights now. */
  get count(): number {
    return this.fused.size
  }

  get editsStream(): boolean {
    return [...this.fused.keys()].some(({ info }) => info.type === 'loreft')
  }

  private inTurn<T>(change: () => Promise<T>): Promise<T> {
    const turn = this.last.then(change)
    this.last = turn.catch(() => {})
    return turn
  }

  /** Everything about the adapter is checked; the model is not touched. */
  private async prepare(adapter: Adapter, { force = false, weight = 1 }: FuseOptions) {
    if (!force) requireSameBase(adapter.info, await this.fingerprint())
    const change = toNative(adapter, this.config, weight)
    return { id: `adapter-${this.made++}`, weight, change }
  }

  private overlaps(adapter: Adapter): FuseResult['overlaps'] {
    const inputs = (module: string) => moduleShape(this.config, parseModule(module)!.kind)[1]
    return [...this.fused.keys()]
      .map((other) => ({ adapter: other, modules: adapterOverlap(adapter, other, inputs) }))
      .filter(({ modules }) => modules.length > 0)
  }

  fuse(adapter: Adapter, options: FuseOptions): Promise<FuseResult> {
    return this.inTurn(async () => {
      if (this.fused.has(adapter)) {
        throw new S2FTError('INVALID_ARGUMENT', 'expected an adapter that is not fused yet')
      }
      const { id, weight, change } = await this.prepare(adapter, options)
      this.requireFree()
      await this.model.fuse(id, change)
      const overlaps = this.overlaps(adapter)
      this.fused.set(adapter, { id, weight })
      return { overlaps }
    })
  }

  unfuse(adapter: Adapter): Promise<void> {
    return this.inTurn(async () => {
      const found = this.fused.get(adapter)
      if (found === undefined) {
        throw new S2FTError(
          'INVALID_ARGUMENT',
          'expected an adapter that is fused, found none such',
        )
      }
      this.requireFree()
      await this.model.unfuse(found.id)
      this.fused.delete(adapter)
    })
  }

  /** Takes out every adapter and puts `adapter` in, or leaves all as it was. */
  switch(adapter: Adapter, options: FuseOptions): Promise<void> {
    return this.inTurn(async () => {
      const { id, weight, change } = await this.prepare(adapter, options)
      const out = [...this.fused.values()].map((other) => other.id)
      this.requireFree()
      await this.model.replace(out, id, change)
      this.fused.clear()
      this.fused.set(adapter, { id, weight })
    })
  }
}
