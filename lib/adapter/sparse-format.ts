// The sparse adapter's two files: adapter_config.json and adapter_model.safetensors.
import { z } from 'zod'
import { S2FTError } from '../errors.js'
import { parseModule } from '../model/modules.js'
import { show, validate } from '../model/validate.js'
import type { Tensor } from '../native/binding.js'
import type { SparseAdapterInfo } from './types.js'
import { ascendingPlaces, expectShape, floatValues } from './values.js'

export const SPARSE_TYPE = 'S2FT_SPARSE'
const FORMAT_VERSION = 1

const schema = z.looseObject({
  peft_type: z.literal(SPARSE_TYPE),
  format_version: z.literal(FORMAT_VERSION),
  base_model_name_or_path: z.string(),
  base_fingerprint: z.string().regex(/^[0-9a-f]{1,64}$/),
  masks: z.array(z.strictObject({ module: z.string(), count: z.number().int().positive() })).min(1),
  selection: z.strictObject({
    strategy: z.enum(['random', 'weight', 'gradient', 'fisher']),
    share: z.number().positive().max(1),
  }),
  seed: z.number().int().nonnegative(),
})

/** [n]: what the module's elements changed by. */
export function sparseDeltaName(module: string): string {
  return `${module}.sparse_delta`
}

/** [n] I32: where they are, row * in + column, ascending. */
export function sparseIndexName(module: string): string {
  return `${module}.sparse_index`
}

export function sparseConfig(info: SparseAdapterInfo): Record<string, unknown> {
  return {
    peft_type: SPARSE_TYPE,
    format_version: FORMAT_VERSION,
    task_type: 'CAUSAL_LM',
    base_model_name_or_path: info.baseModel,
    base_fingerprint: info.baseFingerprint,
    masks: info.masks,
    selection: info.selection,
    seed: info.seed,
  }
}

/** Throws CORRUPT_FILE naming the field. */
export function parseSparseConfig(raw: unknown, file: string): SparseAdapterInfo {
  const found = validate(schema, raw, file, 'CORRUPT_FILE')
  const modules = new Set<string>()
  for (const { module } of found.masks) {
    if (!parseModule(module) || modules.has(module)) {
      const expected = modules.has(module) ? 'each module once' : 'linear modules of layers'
      throw new S2FTError(
        'CORRUPT_FILE',
        `${file}: masks: expected ${expected}, found ${show(module)}`,
      )
    }
    modules.add(module)
  }
  return {
    type: 'sparse',
    baseModel: found.base_model_name_or_path,
    baseFingerprint: found.base_fingerprint,
    masks: found.masks,
    selection: found.selection,
    seed: found.seed,
  }
}

/** The tensors belong to the masks, a change and its places each, and nothing else is there. */
export function checkSparseTensors(
  info: SparseAdapterInfo,
  tensors: ReadonlyMap<string, Tensor>,
  where: string,
): void {
  const wanted = info.masks.flatMap(({ module, count }) => [
    { name: sparseDeltaName(module), count },
    { name: sparseIndexName(module), count },
  ])
  for (const { name, count } of wanted) {
    const tensor = tensors.get(name)
    if (!tensor) {
      throw new S2FTError('CORRUPT_FILE', `${where}: expected tensor ${name}, found none`)
    }
    expectShape(tensor, [count], `${where}: ${name}`)
    if (name.endsWith('_index')) ascendingPlaces(tensor, `${where}: ${name}`)
    else floatValues(tensor, `${where}: ${name}`)
  }
  const names = new Set(wanted.map(({ name }) => name))
  const foreign = [...tensors.keys()].find((name) => !names.has(name))
  if (foreign !== undefined) {
    throw new S2FTError(
      'CORRUPT_FILE',
      `${where}: expected tensors of the masks in adapter_config.json only, found ${show(foreign)}`,
    )
  }
}
