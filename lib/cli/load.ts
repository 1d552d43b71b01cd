// Loads what most commands work on: a model, with an adapter fused into it when one is named.
import type { Model } from '../model/model.js'
import type { CommonOptions } from './common.js'

/** The caller disposes the model. */
export async function loadModel(
  options: CommonOptions & { model: string; adapter?: string | undefined; force?: boolean },
): Promise<Model> {
  const { Adapter, Model } = await import('../index.js')
  // A wrong adapter is told before the weights are read.
  const adapter = options.adapter === undefined ? undefined : await Adapter.load(options.adapter)
  const { device, dtype, threads, arithmetic } = options
  const model = await Model.load(options.model, { device, dtype, threads, arithmetic })
  try {
    if (adapter) await model.fuse(adapter, { force: options.force === true })
    return model
  } catch (error) {
    await model.dispose()
    throw error
  }
}

/** A signal that the first Ctrl-C (or SIGTERM) aborts; the second ends the process at once. */
export function interruptSignal(onFirst: () => void): { signal: AbortSignal; stop(): void } {
  const controller = new AbortController()
  const handler = (name: NodeJS.Signals) => {
    if (controller.signal.aborted) process.exit(name === 'SIGTERM' ? 143 : 130)
    controller.abort()
    onFirst()
  }
  process.on('SIGINT', handler)
  process.on('SIGTERM', handler)
  return {
    signal: controller.signal,
    stop: () => {
      process.off('SIGINT', handler)
      process.off('SIGTERM', handler)
    },
  }
}
