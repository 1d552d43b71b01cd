// Which heads and channels an S²FT adapter trains, read from its rows and columns.
import { S2FTError } from '../errors.js'
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

/**
 * By slice; empty for other adapters. Throws CORRUPT_FILE for a layer or an index beyond the sizes
 * that the adapter records.
 */
export function chosenUnits(adapter: Adapter): ChosenUnits[] {
  const { units } = adapter.info.type === 's2ft' ? adapter.info : {}
  const found = slicesOf(adapter)
  const outside = found.find(
    ({ layer, of, chosen }) => units && (layer >= units.layers || chosen.at(-1)! >= of!),
  )
  if (outside) {
    const { module, unit, of, chosen } = outside
    throw new S2FTError(
      'CORRUPT_FILE',
      `adapter: units: expected ${module} within ${units!.layers} layers of ${of} ${unit}s, found ` +
        `${unit} ${chosen.at(-1)}`,
    )
  }
  return found
}

function slicesOf({ info, tensors }: Adapter): ChosenUnits[] {
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
