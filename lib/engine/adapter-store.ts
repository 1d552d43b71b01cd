// Adapters that requests can name: where they come from, which are held in memory, and which give
// way to others, those used longest ago first.
import { resolve } from 'node:path'
import { Adapter } from '../adapter/adapter.js'
import { requireSameBase } from '../adapter/fusion.js'
import { toNative } from '../adapter/to-native.js'
import { S2FTError } from '../errors.js'
import type { Model } from '../model/model.js'
import { show } from '../model/validate.js'
import type { NativeDecoder } from '../native/decoder-binding.js'
import type { EngineAdapter } from './engine-types.js'
import type { AdapterState, JobAdapter } from './job.js'

interface Entry extends JobAdapter {
  /** The decoder's name of it, a new one each time it is loaded: its files may have changed. */
  id: number
  readonly name: string
  readonly directory: string | undefined
  /** Given as an object, which nothing can be read again from. */
  readonly object: Adapter | undefined
  readonly kind: string
  bytes: number
  state: 'absent' | 'loading' | 'resident'
  /** Requests that were made with it and have not ended. */
  holders: number
  /** Of these, how many run. */
  running: number
  /** Loaded for a request that has not begun to run with it yet. */
  expected: boolean
  removed: boolean
  /** Why it could not be loaded; told to the requests that wait for it. */
  failure: { error: unknown } | undefined
}

export interface AdapterStats {
  known: number
  resident: number
  bytes: number
  loads: number
  evictions: number
}

export class AdapterStore {
  private readonly byName = new Map<string, Entry>()
  /** In memory or on the way, from the longest unused; `bytes` counts these. */
  private readonly held = new Set<Entry>()
  private bytes = 0
  private nextId = 0
  private loads = 0
  private evictions = 0

  constructor(
    private readonly model: Model,
    private readonly decoder: NativeDecoder,
    private readonly limit: number,
    /** Called when an adapter has become ready, or cannot. */
    private readonly onChange: () => void,
  ) {}

  /**
   * Reads an adapter and checks that it fits the model. Throws INVALID_ARGUMENT for a name in use
   * and for an adapter larger than the memory for adapters, what Adapter.load throws,
   * ADAPTER_MISMATCH, SHAPE_MISMATCH, UNSUPPORTED.
   */
  async add(name: string, source: string | Adapter): Promise<void> {
    this.refuseKnown(name)
    const given = typeof source === 'string' ? undefined : source
    const adapter = typeof source === 'string' ? await Adapter.load(source) : source
    requireSameBase(adapter.info, await this.model.fingerprint())
    const entry: Entry = {
      ...{ id: -1, name, object: given, kind: adapter.info.type, bytes: 0, state: 'absent' },
      directory: typeof source === 'string' ? resolve(source) : undefined,
      ...{ holders: 0, running: 0, expected: false, removed: false, failure: undefined },
    }
    // Loaded once: what does not fit is told to whoever adds it, not to a request.
    await this.bring(entry, adapter)
    try {
      this.refuseKnown(name)
      if (entry.bytes > this.limit) {
        throw new S2FTError(
          'INVALID_ARGUMENT',
          `adapter ${show(name)}: expected at most ${this.limit} bytes (adapterMemory), found ${entry.bytes}`,
        )
      }
    } catch (error) {
      await this.drop(entry)
      throw error
    }
    this.byName.set(name, entry)
    this.makeRoom(0)
  }

  /** Requests that use it go on. Throws ADAPTER_MISMATCH for an unknown name. */
  async remove(name: string): Promise<void> {
    const entry = this.named(name)
    this.byName.delete(name)
    entry.removed = true
    if (entry.holders === 0 && entry.state === 'resident') await this.drop(entry)
  }

  /** The adapter for one request, until release(). Throws ADAPTER_MISMATCH for an unknown name. */
  acquire(name: string): JobAdapter {
    const entry = this.named(name)
    entry.holders++
    return entry
  }

  release(adapter: JobAdapter): void {
    const entry = adapter as Entry
    entry.holders--
    if (entry.holders > 0) return
    entry.expected = false
    if (entry.removed && entry.state === 'resident') void this.drop(entry)
  }

  /**
   * Whether a request can run with it; begins to load it where it is absent, there is room, and
   * `mayLoad`. Throws why the last attempt to load it failed.
   */
  ready(adapter: JobAdapter, mayLoad: boolean): AdapterState {
    const entry = adapter as Entry
    if (entry.failure) throw entry.failure.error
    if (entry.state !== 'absent') return entry.state === 'resident' ? 'ready' : 'loading'
    if (!mayLoad || !this.makeRoom(entry.bytes)) return 'full'
    entry.expected = true
    void this.load(entry)
    return 'loading'
  }

  /** A request begins to run with it: it stays in memory until as many closed(). */
  opened(adapter: JobAdapter): void {
    const entry = adapter as Entry
    entry.running++
    entry.expected = false
    this.held.delete(entry)
    this.held.add(entry)
  }

  closed(adapter: JobAdapter): void {
    ;(adapter as Entry).running--
  }

  list(): EngineAdapter[] {
    return [...this.byName.values()].map(({ name, directory, kind, bytes, state }) => ({
      ...{ name, directory, kind, bytes },
      resident: state === 'resident',
    }))
  }

  stats(): AdapterStats {
    const { bytes, loads, evictions } = this
    const resident = [...this.held].filter(({ state }) => state === 'resident').length
    return { known: this.byName.size, resident, bytes, loads, evictions }
  }

  private named(name: string): Entry {
    const entry = this.byName.get(name)
    if (entry) return entry
    throw new S2FTError('ADAPTER_MISMATCH', `no adapter named ${show(name)} was added`)
  }

  private refuseKnown(name: string): void {
    if (!this.byName.has(name)) return
    throw new S2FTError(
      'INVALID_ARGUMENT',
      `adapter ${show(name)}: expected a name that is not in use`,
    )
  }

  private async load(entry: Entry): Promise<void> {
    try {
      await this.bring(entry, entry.object)
      // What it takes may have grown since it was added.
      this.makeRoom(0)
    } catch (error) {
      entry.failure = { error }
      // A later request tries again.
      setTimeout(() => {
        entry.failure = undefined
      }, 1000).unref()
    }
    if (entry.holders === 0 && entry.removed && entry.state === 'resident') await this.drop(entry)
    this.onChange()
  }

  private async bring(entry: Entry, adapter: Adapter | undefined): Promise<void> {
    entry.state = 'loading'
    this.held.add(entry)
    this.bytes += entry.bytes
    try {
      const found = adapter ?? (await Adapter.load(entry.directory!))
      if (!adapter) requireSameBase(found.info, await this.model.fingerprint())
      entry.id = this.nextId++
      const change = toNative(found, this.model.config.native)
      const bytes = await this.decoder.addAdapter(entry.id, change)
      this.bytes += bytes - entry.bytes
      entry.bytes = bytes
      entry.state = 'resident'
      this.loads++
    } catch (error) {
      this.held.delete(entry)
      this.bytes -= entry.bytes
      entry.state = 'absent'
      throw error
    }
  }

  /** Evicts adapters that nobody runs with, if that leaves so many bytes; else evicts none. */
  private makeRoom(needed: number): boolean {
    const victims: Entry[] = []
    let left = this.bytes + needed
    for (const entry of this.held) {
      if (left <= this.limit) break
      if (entry.running > 0 || entry.expected || entry.state !== 'resident') continue
      victims.push(entry)
      left -= entry.bytes
    }
    if (left > this.limit && needed > 0) return false
    for (const entry of victims) {
      this.evictions++
      void this.drop(entry)
    }
    return left <= this.limit
  }

  private async drop(entry: Entry): Promise<void> {
    this.held.delete(entry)
    this.bytes -= entry.bytes
    entry.state = 'absent'
    // Nobody waits for it, and an engine that is being disposed has no decoder any more.
    await this.decoder.removeAdapter(entry.id).catch(() => {})
  }
}
