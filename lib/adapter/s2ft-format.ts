// The S²FT adapter's two files: adapter_config.json and adapter_model.safetensors.
import { z } from 'zod'
import { S2FTError } from '../errors.js'
import { MODULE_KINDS, parseModule, SLICE_AXIS } from '../model/modules.js'
import { show, validate } from '../model/validate.js'
import type { Tensor } from '../native/binding.js'
import { allocationNames, selectionOrders, selectionStrategies } from './selection.js'
import type { S2ftAdapterInfo } from './types.js'
import { expectShape, floatValues, indexValues } from './values.js'

export const FORMAT_VERSION = 1

const count = z.number().int().positive()
const schema = z.looseObject({
  peft_type: z.literal('S2FT'),
  format_version: z.literal(FORMAT_VERSION),
  base_model_name_or_path: z.string(),
  base_fingerprint: z.string().regex(/^[0-9a-f]{1,64}$/),
  slices: z
    .array(z.strictObject({ module: z.string(), axis: z.enum(['rows', 'cols']), count }))
    .min(1),
  selection: z.strictObject({
    strategy: z.enum([...selectionStrategies, 'explicit']),
    order: z.enum(selectionOrders).optional(),
    share: z.number().positive().max(1).optional(),
    allocation: z.union([z.enum(allocationNames), z.array(z.number().nonnegative())]).optional(),
    ratios: z.partialRecord(z.enum(MODULE_KINDS), z.number()).optional(),
    lora_rank: count.optional(),
  }),
  seed: z.number().int().nonnegative(),
  units: z
    .strictObject({
      layers: count,
      heads: count,
      kv_heads: count,
      head_dim: count,
      channels: count,
    })
    .optional(),
  base_quantization: z.enum(['int8', 'nf4']).optional(),
})

export function deltaName(module: string): string {
  return `${module}.s2ft_delta`
}

export function indexName(module: string): string {
  return `${module}.s2ft_index`
}

export function s2ftConfig(info: S2ftAdapterInfo): Record<string, unknown> {
  return {
    peft_type: 'S2FT',
    format_version: FORMAT_VERSION,
    task_type: 'CAUSAL_LM',
    base_model_name_or_path: info.baseModel,
    base_fingerprint: info.baseFingerprint,
    slices: info.slices,
    selection: info.selection,
    seed: info.seed,
    ...(info.units && { units: info.units }),
    ...(info.quantization && { base_quantization: info.quantization }),
  }
}

/** Throws CORRUPT_FILE naming the field. */
export function parseS2ftConfig(raw: unknown, file: string): S2ftAdapterInfo {
  const found = validate(schema, raw, file, 'CORRUPT_FILE')
  const modules = new Set<string>()
  for (const { module, axis } of found.slices) {
    const place = parseModule(module)
    if (!place || axis !== SLICE_AXIS[place.kind]) {
      const expected = place ? `axis ${SLICE_AXIS[place.kind]}` : 'a linear module of a layer'
      throw new S2FTError(
        'CORRUPT_FILE',
        `${file}: slices: ${show(module)}: expected ${expected}, found axis ${axis}`,
      )
    }
    if (modules.has(module)) {
      throw new S2FTError(
        'CORRUPT_FILE',
        `${file}: slices: expected ${module} once, found it again`,
      )
    }
    modules.add(module)
  }
  return {
    type: 's2ft',
    baseModel: found.base_model_name_or_path,
    baseFingerprint: found.base_fingerprint,
    slices: found.slices,
    selection: found.selection as S2ftAdapterInfo['selection'],
    seed: found.seed,
    ...(found.units && { units: found.units }),
    ...(found.base_quantization && { quantization: found.base_quantization }),
  }
}

/** The tensors belong to the slices, one delta and one index each, and nothing else is there. */
export function checkS2ftTensors(
  info: S2ftAdapterInfo,
  tensors: ReadonlyMap<string, Tensor>,
  where: string,
): void {
  const wanted = new Set<string>()
  for (const { module, axis, count: length } of info.slices) {
    for (const name of [deltaName(module), indexName(module)]) {
      wanted.add(name)
      if (!tensors.has(name)) {
        throw new S2FTError('CORRUPT_FILE', `${where}: expected tensor ${name}, found none`)
      }
    }
    const delta = tensors.get(deltaName(module))!
    const index = tensors.get(indexName(module))!
    expectShape(index, [length], `${where}: ${indexName(module)}`)
    indexValues(index, `${where}: ${indexName(module)}`)
    const shape = axis === 'rows' ? [length, undefined] : [undefined, length]
    expectShape(delta, shape, `${where}: ${deltaName(module)}`)
    floatValues(delta, `${where}: ${deltaName(module)}`)
  }
  for (const name of tensors.keys()) {
    if (!wanted.has(name)) {
      throw new S2FTError(
        'CORRUPT_FILE',
        `${where}: expected tensors of the slices in adapter_config.json only, found ${show(name)}`,
      )
    }
  }
}
