// The method that a benchmark case trains, with the options that make methods comparable.
import { dora, full, lisa, lora, loreft, type Method, s2ft } from '../index.js'
import { type BenchMethod, LISA_LAYERS } from './operations.js'

export interface MethodSpec {
  method: BenchMethod
  /** Rank of LoRA and DoRA, whose alpha is twice that, and of LoReFT. */
  rank: number
  /** Channels of gate, up and down that S²FT trains. */
  channels: number
  intermediate: number
}

export function methodOf(spec: MethodSpec): Method {
  if (spec.method === 'full') return full()
  if (spec.method === 'lisa') return lisa({ layers: LISA_LAYERS, interval: 5 })
  if (spec.method === 's2ft') {
    const share = Math.min(1, spec.channels / spec.intermediate)
    return s2ft({ ratios: { gate: share, up: share, down: share }, seed: 0 })
  }
  if (spec.method === 'loreft') return loreft({ r: spec.rank })
  const ffn = ['gate_proj', 'up_proj', 'down_proj']
  const targetModules = spec.method.endsWith('3') ? ffn : 'all-linear'
  const make = spec.method.startsWith('dora') ? dora : lora
  return make({ r: spec.rank, alpha: 2 * spec.rank, targetModules })
}
