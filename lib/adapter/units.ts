// Which heads and channels an S²FT adapter trains, read from its rows and columns.
import { type MODULE_KINDS, parseModule } from '../model/modules.js'
import type { Adapter } from './adapter.js'
import { indexName } from './s2ft-format.js'

export interface ChosenUnits {
  module: string
  layer: number
  kind: (typeof MODULE_KINDS)[number]
  /** Adapters that do not know the size of a head list rows or columns instead of heads. */
  unit: 'head' | 'channel' | 'row' | 'column'
  /** Units that there are; absent where the adapter does not know. */
  of?: number
  /** Ascending. */
  chosen: number[]
}

/** By slice; empty for other adapters. */
export function chosenUnits({ info, tensors }: Adapter): ChosenUnits[] {
  if (info.type !== 's2ft') return []
  const { units } = info
  return info.slices.map(({ module, axis }) => {
    const { layer, kind } = parseModule(module)!
    const index = Array.from(tensors.get(indexName(module))!.data).sort((a, b) => a - b)
    const place = { module, layer, kind }
    if (kind === 'gate' || kind === 'up' || kind === 'down') {
      return { ...place, unit: 'channel', ...(units && { of: units.channels }), chosen: index }
    }
    if (!units) return { ...place, unit: axis === 'rows' ? 'row' : 'column', chosen: index }
    const chosen = [...new Set(index.map((i) => Math.floor(i / units.head_dim)))]
    const of = kind === 'k' || kind === 'v' ? units.kv_heads : units.heads
    return { ...place, unit: 'head', of, chosen }
  })
}
