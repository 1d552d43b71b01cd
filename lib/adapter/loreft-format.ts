// The LoReFT adapter's two files: adapter_config.json and adapter_model.safetensors.
import { z } from 'zod'
import { S2FTError } from '../errors.js'
import { show, validate } from '../model/validate.js'
import type { Tensor } from '../native/binding.js'
import type { LoreftAdapterInfo } from './types.js'
import { expectShape, floatValues } from './values.js'

export const LOREFT_TYPE = 'LOREFT'
const FORMAT_VERSION = 1
/** Largest element of R·Rᵀ − I that a file may have: trained rotations are within 1e-5. */
const ROTATION_TOLERANCE = 1e-3

const MOST_POSITIONS = 2 ** 24

/**
 * How many first and last positions of a prompt `text` names: 'f7+l7', 'f3', 'l1'; undefined for
 * any other text.
 */
export function parsePositions(text: string): { first: number; last: number } | undefined {
  const match = /^(?:f(\d{1,8}))?(\+?)(?:l(\d{1,8}))?$/.exec(text)
  const [first, last] = [Number(match?.[1] ?? 0), Number(match?.[3] ?? 0)]
  const joined = match?.[1] !== undefined && match?.[3] !== undefined
  if (!match || (match[2] === '+') !== joined) return undefined
  if (first + last < 1 || first > MOST_POSITIONS || last > MOST_POSITIONS) return undefined
  return { first, last }
}

const positions = z
  .string()
  .refine(
    (text) => parsePositions(text) !== undefined,
    "expected first and last positions, e.g. 'f7+l7', 'f3' or 'l1'",
  )

const schema = z.looseObject({
  peft_type: z.literal(LOREFT_TYPE),
  format_version: z.literal(FORMAT_VERSION),
  base_model_name_or_path: z.string(),
  base_fingerprint: z.string().regex(/^[0-9a-f]{1,64}$/),
  r: z.number().int().positive(),
  layers: z.array(z.number().int().nonnegative().max(999_999)).min(1),
  positions,
  share_weights: z.boolean(),
  dropout: z.number().min(0).lt(1),
  seed: z.number().int().nonnegative(),
})

export function loreftConfig(info: LoreftAdapterInfo): Record<string, unknown> {
  return {
    peft_type: LOREFT_TYPE,
    format_version: FORMAT_VERSION,
    task_type: 'CAUSAL_LM',
    base_model_name_or_path: info.baseModel,
    base_fingerprint: info.baseFingerprint,
    r: info.r,
    layers: info.layers,
    positions: info.positions,
    share_weights: info.shareWeights,
    dropout: info.dropout,
    seed: info.seed,
  }
}

/** Throws CORRUPT_FILE naming the field. */
export function parseLoreftConfig(raw: unknown, file: string): LoreftAdapterInfo {
  const found = validate(schema, raw, file, 'CORRUPT_FILE')
  const at = found.layers.findIndex((layer, i) => layer <= (found.layers[i - 1] ?? -1))
  if (at >= 0) {
    throw new S2FTError(
      'CORRUPT_FILE',
      `${file}: layers[${at}]: expected ascending layers, found ${found.layers[at]}`,
    )
  }
  return {
    type: 'loreft',
    baseModel: found.base_model_name_or_path,
    baseFingerprint: found.base_fingerprint,
    r: found.r,
    layers: found.layers,
    positions: found.positions,
    shareWeights: found.share_weights,
    dropout: found.dropout,
    seed: found.seed,
  }
}

/** What is behind a layer: one set of weights, or one for the prefix and one for the suffix. */
export function loreftSets(
  { positions, shareWeights }: LoreftAdapterInfo,
  layer: number,
): string[] {
  const base = `model.layers.${layer}`
  const { first, last } = parsePositions(positions)!
  const split = !shareWeights && first > 0 && last > 0
  return split ? [`${base}.prefix`, `${base}.suffix`] : [base]
}

function checkRotation(values: Float32Array, r: number, where: string): void {
  const d = values.length / r
  for (let i = 0; i < r; i++) {
    for (let j = 0; j <= i; j++) {
      let dot = i === j ? -1 : 0
      for (let k = 0; k < d; k++) dot += values[i * d + k]! * values[j * d + k]!
      if (Math.abs(dot) <= ROTATION_TOLERANCE) continue
      throw new S2FTError(
        'CORRUPT_FILE',
        `${where}: expected orthonormal rows, found that the product of rows ${i} and ${j} ` +
          `is off by ${dot.toExponential(1)}`,
      )
    }
  }
}

/** R, W and b of every set, of one hidden size, and nothing else is there. */
export function checkLoreftTensors(
  info: LoreftAdapterInfo,
  tensors: ReadonlyMap<string, Tensor>,
  where: string,
): void {
  const names = new Set<string>()
  let hidden: number | undefined
  for (const set of info.layers.flatMap((layer) => loreftSets(info, layer))) {
    for (const kind of ['loreft_R', 'loreft_W', 'loreft_b']) {
      const name = `${set}.${kind}`
      const tensor = tensors.get(name)
      if (!tensor) {
        throw new S2FTError('CORRUPT_FILE', `${where}: expected tensor ${name}, found none`)
      }
      expectShape(tensor, kind === 'loreft_b' ? [info.r] : [info.r, hidden], `${where}: ${name}`)
      hidden ??= tensor.shape[1]
      const values = floatValues(tensor, `${where}: ${name}`)
      if (kind === 'loreft_R') checkRotation(values, info.r, `${where}: ${name}`)
      names.add(name)
    }
  }
  const foreign = [...tensors.keys()].find((name) => !names.has(name))
  if (foreign === undefined) return
  throw new S2FTError(
    'CORRUPT_FILE',
    `${where}: expected tensors of the layers in adapter_config.json only, found ${show(foreign)}`,
  )
}

/** Why a LoReFT adapter cannot become weights; for merging and export. */
export function refuseLoreft(what: string): never {
  throw new S2FTError(
    'UNSUPPORTED',
    `${what}: a LoReFT adapter changes the residual stream at positions of the prompt, not ` +
      'weights, so no checkpoint and no LoRA holds it: use it with --adapter, or model.fuse()',
  )
}
