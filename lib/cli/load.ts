// Loads what most commands work on: a model, with an adapter fused into it when one is named.
import type { Model } from '../model/model.js'
import type { Quantization } from '../native/binding.js'
import type { CommonOptions } from './common.js'

/** The caller disposes the model. */
export async function loadModel(
  options: CommonOptions & {
    model: string
    adapter?: string | undefined
    force?: boolean
    quantize?: Quantization | undefined
  },
): Promise<Model> {
  const { Adapter, Model } = await import('../index.js')
  // A wrong adapter is told before the weights are read.
  const adapter = options.adapter === undefined ? undefined : await Adapter.load(options.adapter)
  const { device, dtype, threads, arithmetic, quantize = 'none' } = options
  const model = await Model.load(options.model, { device, dtype, threads, arithmetic, quantize })
  try {
    if (adapter) await model.fuse(adapter, { force: options.force === true })
    return model
  } catch (error) {
    await model.dispose()
    throw error
  }
}

const SIGINT = 130
const SIGTERM = 143

/** What stops a command early. */
export interface Interrupt {
  signal: AbortSignal
  /** Exit status of a command that was stopped. */
  readonly status: number
  stop(): void
}

/** A signal that the first Ctrl-C (or SIGTERM) aborts; the second ends the process at once. */
export function interruptSignal(onFirst: () => void): Interrupt {
  const controller = new AbortController()
  let status = SIGINT
  const handler = (name: NodeJS.Signals) => {
    status = name === 'SIGTERM' ? SIGTERM : SIGINT
    if (controller.signal.aborted) process.exit(status)
    controller.abort()
    onFirst()
  }
  process.on('SIGINT', handler)
  process.on('SIGTERM', handler)
  return {
    signal: controller.signal,
    get status() {
      return status
    },
    stop: () => {
      process.off('SIGINT', handler)
      process.off('SIGTERM', handler)
    },
  }
}
