// Loads what most commands work on: a model, with the adapters fused into it that are named.

import type { Model } from '../model/model.js'
import type { Quantization } from '../native/binding.js'
import { grouped } from '../report/format.js'
import type { CommonOptions } from './common.js'
import { type AdapterChoice, adapterText } from './parse.js'

interface LoadModelOptions extends CommonOptions {
  model: string
  adapter?: AdapterChoice[] | undefined
  force?: boolean
  quantize?: Quantization | undefined
}

/** The caller disposes the model. Adapters that overlap are named on stderr. */
export async function loadModel(options: LoadModelOptions): Promise<Model> {
  const { Adapter, Model } = await import('../index.js')
  // A wrong adapter is told before the weights are read.
  const loaded = new Map<InstanceType<typeof Adapter>, AdapterChoice>()
  for (const choice of options.adapter ?? []) {
    loaded.set(await Adapter.load(choice.directory), choice)
  }
  const { device, dtype, threads, arithmetic, quantize = 'none' } = options
  const model = await Model.load(options.model, { device, dtype, threads, arithmetic, quantize })
  try {
    for (const [adapter, choice] of loaded) {
      const settings = { force: options.force === true, weight: choice.weight }
      const { overlaps } = await model.fuse(adapter, settings)
      for (const { adapter: other, modules } of overlaps) {
        const both = `${adapterText(loaded.get(other)!)} and ${adapterText(choice)}`
        const count = modules.reduce((sum, { weights = 0 }) => sum + weights, 0)
        process.stderr.write(
          `warning: ${both} both change ${grouped(count)} weights of ${modules.length} modules: ` +
            'their changes add up there\n',
        )
      }
    }
    return model
  } catch (error) {
    await model.dispose()
    throw error
  }
}

const SIGINT = 130
const SIGTERM = 143
const SIGUSR2 = 140

/** What stops a command early. */
export interface Interrupt {
  signal: AbortSignal
  /** Exit status of a command that was stopped. */
  readonly status: number
  stop(): void
}

/** A signal that the first Ctrl-C, SIGTERM or one of `more` aborts; the second ends the process at once. */
export function interruptSignal(onFirst: () => void, more: NodeJS.Signals[] = []): Interrupt {
  const controller = new AbortController()
  let status = SIGINT
  const handler = (name: NodeJS.Signals) => {
    status = name === 'SIGTERM' ? SIGTERM : name === 'SIGUSR2' ? SIGUSR2 : SIGINT
    if (controller.signal.aborted) process.exit(status)
    controller.abort()
    onFirst()
  }
  const signals: NodeJS.Signals[] = ['SIGINT', 'SIGTERM', ...more]
  for (const name of signals) process.on(name, handler)
  return {
    signal: controller.signal,
    get status() {
      return status
    },
    stop: () => {
      for (const name of signals) process.off(name, handler)
    },
  }
}
