// Checked options of the methods but S²FT.
import { z } from 'zod'
import { parsePositions } from '../adapter/loreft-format.js'
import { MODULE_KINDS } from '../model/modules.js'
import { validate } from '../model/validate.js'
import { seed } from './schemas.js'
import type {
  DoraMethod,
  FullMethod,
  GaloreMethod,
  GaloreOptions,
  LisaMethod,
  LisaOptions,
  LoraMethod,
  LoraOptions,
  LoreftMethod,
  LoreftOptions,
  SparseMethod,
  SparseOptions,
} from './types.js'

const targetModules = z
  .union([z.literal('all-linear'), z.array(z.string().min(1)).min(1)])
  .default('all-linear')
/** Names are matched, never run as expressions; a short name is written as PEFT needs it. */
const pattern = <T extends z.ZodType>(value: T) =>
  z
    .record(z.string(), value)
    .refine(
      (given) => Object.keys(given).every((name) => /^[\w.]+$/.test(name)),
      'expected module names or their dotted ends',
    )
    .transform((given) =>
      Object.fromEntries(
        Object.entries(given).map(([name, found]) => [
          (MODULE_KINDS as readonly string[]).includes(name) ? `${name}_proj` : name,
          found,
        ]),
      ),
    )
const loraSchema = z.strictObject({
  r: z.number().int().positive().default(8),
  alpha: z.number().positive().default(16),
  dropout: z.number().min(0).lt(1).default(0),
  targetModules,
  rslora: z.boolean().default(false),
  rankPattern: pattern(z.number().int().positive()).optional(),
  alphaPattern: pattern(z.number().positive()).optional(),
  seed,
})

const sparseSchema = z.strictObject({
  share: z.number().positive().max(1).default(0.01),
  selection: z.enum(['random', 'weight', 'gradient', 'fisher']).default('random'),
  targetModules,
  calibrationShare: z.number().positive().max(1).default(0.01),
  seed,
})
const galoreSchema = z.strictObject({
  r: z.number().int().positive().default(128),
  updateInterval: z.number().int().positive().default(200),
  scale: z.number().positive().default(0.25),
  seed,
})
const lisaSchema = z.strictObject({
  layers: z.number().int().positive().default(2),
  interval: z.number().int().positive().default(20),
  seed,
})
const loreftSchema = z.strictObject({
  r: z.number().int().positive().default(8),
  layers: z
    .union([z.literal('all'), z.array(z.number().int().nonnegative()).min(1)])
    .transform((given) => (given === 'all' ? given : [...new Set(given)].sort((a, b) => a - b)))
    .default('all'),
  positions: z
    .string()
    .refine(
      (text) => parsePositions(text) !== undefined,
      "expected first and last positions, e.g. 'f7+l7', 'f3' or 'l1'",
    )
    .default('f7+l7'),
  shareWeights: z.boolean().default(true),
  dropout: z.number().min(0).lt(1).default(0),
  seed,
})

/**
 * Low-rank adaptation on the same engine, in PEFT's meaning of r, alpha, dropout and names.
 * Throws INVALID_ARGUMENT naming the option.
 */
export function lora(options: LoraOptions = {}): LoraMethod {
  return { kind: 'lora', ...validate(loraSchema, options, 'lora options') }
}

/**
 * Weight-decomposed low-rank adaptation: the factors of lora() turn every row of a weight, a
 * trained magnitude sets its length. The length of W + scale·B·A counts as a constant in the
 * gradient (DoRA paper section 4.3, as PEFT). Options as of lora(); dropout is on the factors'
 * input only. Throws INVALID_ARGUMENT naming the option.
 */
export function dora(options: LoraOptions = {}): DoraMethod {
  return { kind: 'dora', ...validate(loraSchema, options, 'dora options') }
}

/**
 * Unstructured sparse fine-tuning: single elements of the linear weights train in place; values,
 * moments and the adapter have the mask's size. The gradient is taken densely, one weight at a
 * time, before the mask's elements are gathered from it: that is what the method costs, and a mask
 * chosen by gradients needs dense scores of all targeted weights once, before the first step.
 * Throws INVALID_ARGUMENT naming the option.
 */
export function sparse(options: SparseOptions = {}): SparseMethod {
  return { kind: 'sparse', ...validate(sparseSchema, options, 'sparse options') }
}

/**
 * Layerwise importance sampled AdamW: every `interval` steps `layers` layers are drawn, uniformly,
 * and train whole; the embedding, the final norm and the head always train. Optimizer state exists
 * for what trains only: a layer begins each period without moments, and with bf16 weights the f32
 * values of a layer end with its period. Changes the base, as full() does.
 * Throws INVALID_ARGUMENT naming the option.
 */
export function lisa(options: LisaOptions = {}): LisaMethod {
  return { kind: 'lisa', ...validate(lisaSchema, options, 'lisa options') }
}

/**
 * Gradient low-rank projection: every weight trains, and Adam sees the linear layers' gradients in
 * the basis of the first `r` singular vectors of a gradient, taken anew every `updateInterval` steps
 * from the step's first micro-batch; moments stay across. The rest trains as with full(). Gradient
 * norms count the projected gradients. Linear weights have no f32 master: bf16 ones are rounded after
 * every step. Changes the base, as full() does. Throws INVALID_ARGUMENT naming the option.
 */
export function galore(options: GaloreOptions = {}): GaloreMethod {
  return { kind: 'galore', ...validate(galoreSchema, options, 'galore options') }
}

/**
 * Low-rank linear subspace representation fine-tuning (ReFT, Wu et al. 2024): behind the given
 * layers the residual stream h becomes h + Rᵀ(W h + b − R h) at the first and last positions of
 * every prompt, R [r, hidden] with orthonormal rows; the weights stay the base's. A prompt is what
 * comes before a sample's first label, and in generation what is given; of a prompt shorter than
 * all positions the prefix has half. Training starts from random values, not from the base model, as
 * in the published code. R is kept on its manifold: its gradients are projected to the tangent
 * space, and every step ends with the nearest matrix with orthonormal rows. The defaults are those
 * of the published commonsense and math runs; weight decay touches W only.
 * Throws INVALID_ARGUMENT naming the option.
 */
export function loreft(options: LoreftOptions = {}): LoreftMethod {
  return { kind: 'loreft', ...validate(loreftSchema, options, 'loreft options') }
}

/** Trains every weight. */
export function full(options: Record<string, never> = {}): FullMethod {
  validate(z.strictObject({}), options, 'full options')
  return { kind: 'full' }
}
