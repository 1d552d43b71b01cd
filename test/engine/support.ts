// Engines over small models, adapters to serve with, and requests run to their ends.
import { join } from 'node:path'
import {
  type Adapter,
  type Engine,
  type EngineEvent,
  type EngineOptions,
  type EngineRequest,
  type EngineResult,
  lora,
  type Method,
  Model,
  s2ft,
  Trainer,
} from '../../lib/index.js'
import { packageRoot } from '../../lib/native/load.js'
import { temporaryDirectory } from '../support/directories.js'
import { goldenRoot } from '../support/golden.js'

export const tiny = join(packageRoot, 'models/tiny')
export const golden = (name: string) => join(goldenRoot, name)
export const small: EngineOptions = { cacheMemory: '4MB', adapterMemory: '4MB' }

export const load = (directory: string, dtype: 'f32' | 'bf16' = 'f32') =>
  Model.load(directory, { device: 'cpu', dtype })

export interface Finished {
  events: EngineEvent[]
  result: EngineResult
}

export async function finish(engine: Engine, request: EngineRequest): Promise<Finished> {
  const stream = engine.generate(request)
  const events: EngineEvent[] = []
  for (;;) {
    const next = await stream.next()
    if (next.done) return { events, result: next.value }
    events.push(next.value)
  }
}

/** A trained adapter of a method, large enough to change what is generated. */
export async function trained(
  model: Model,
  method: Method,
  tokens = [1, 2, 3, 4, 5, 6, 7, 8],
): Promise<Adapter> {
  const trainer = new Trainer(model, { method, learningRate: 0.1 })
  // LoReFT wants a prompt.
  const labels = tokens.map((token, i) => (i < 2 ? -100 : token))
  for (let i = 0; i < 3; i++) await trainer.step([{ tokens, labels }])
  const adapter = await trainer.adapter()
  await trainer.dispose()
  return adapter
}

/** One adapter of each kind that can be served beside others. */
export async function trainedKinds(model: Model): Promise<Record<string, Adapter>> {
  return {
    cols: await trained(model, s2ft({ ratios: { down: 0.3, o: 0.5 } })),
    rows: await trained(model, s2ft({ ratios: { up: 0.3, gate: 0.3, q: 0.5, v: 0.5 } })),
    lora: await trained(model, lora({ r: 3, alpha: 12 })),
  }
}

export async function savedAdapter(adapter: Adapter): Promise<string> {
  const directory = join(temporaryDirectory(), 'adapter')
  await adapter.save(directory)
  return directory
}

/** Nothing holds a page or waits any more. */
export function idle(engine: Engine): boolean {
  const { running, waiting, pages } = engine.stats()
  return running === 0 && waiting === 0 && pages.used === 0
}

/**
 * Until a condition holds; fails after five seconds. It is looked at in every turn of the event
 * loop, since what holds between two passes of a small model is over in milliseconds.
 */
export async function until(holds: () => boolean): Promise<void> {
  const end = Date.now() + 5000
  while (!holds()) {
    if (Date.now() > end) throw new Error('waited five seconds in vain')
    await new Promise((resolve) => setImmediate(resolve))
  }
}
