// Checked options of Model.load.
import { availableParallelism } from 'node:os'
import { z } from 'zod'
import { validate } from './validate.js'

const schema = z.strictObject({
  device: z.enum(['cpu', 'cuda', 'auto']).default('auto'),
  dtype: z.enum(['f32', 'bf16', 'auto']).default('auto'),
  quantize: z.enum(['none', 'int8', 'nf4']).default('none'),
  threads: z.number().int().nonnegative().max(1024).default(0),
  arithmetic: z.enum(['auto', 'native', 'widen']).default('auto'),
})

/** Throws INVALID_ARGUMENT naming the option. `threads` 0 becomes the number of CPUs. */
export function loadOptions(options: unknown): z.infer<typeof schema> {
  const found = validate(schema, options ?? {}, 'Model.load options')
  return { ...found, threads: found.threads || availableParallelism() }
}
