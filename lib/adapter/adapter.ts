// An adapter: what fine-tuning changed, apart from its base. Holds plain typed arrays.
import { access, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { S2FTError } from '../errors.js'
import { publishDirectory } from '../model/directory.js'
import { readJson, show } from '../model/validate.js'
import type { Tensor } from '../native/binding.js'
import { native } from '../native/load.js'
import {
  checkLoraTensors,
  fromPeftNames,
  type LoraConfig,
  loraConfig,
  parseLoraConfig,
  toPeftNames,
} from './lora-format.js'
import {
  checkLoreftTensors,
  LOREFT_TYPE,
  loreftConfig,
  parseLoreftConfig,
} from './loreft-format.js'
import { checkS2ftTensors, parseS2ftConfig, s2ftConfig } from './s2ft-format.js'
import {
  checkSparseTensors,
  parseSparseConfig,
  SPARSE_TYPE,
  sparseConfig,
} from './sparse-format.js'
import type { AdapterInfo } from './types.js'

const CONFIG = 'adapter_config.json'
const WEIGHTS = 'adapter_model.safetensors'
/** Where a LoRA adapter keeps its base's fingerprint: PEFT warns of unknown config keys. */
const FINGERPRINT = 's2ft_base_fingerprint'
const QUANTIZATION = 's2ft_base_quantization'

function checkTensors(info: AdapterInfo, tensors: Adapter['tensors'], where: string): void {
  if (info.type === 's2ft') checkS2ftTensors(info, tensors, where)
  else if (info.type === 'sparse') checkSparseTensors(info, tensors, where)
  else if (info.type === 'loreft') checkLoreftTensors(info, tensors, where)
  else checkLoraTensors(info, tensors, where)
}

function configOf({ info, patterns }: Adapter): Record<string, unknown> {
  if (info.type === 's2ft') return s2ftConfig(info)
  if (info.type === 'sparse') return sparseConfig(info)
  if (info.type === 'loreft') return loreftConfig(info)
  return loraConfig({ info, ...patterns })
}

/** Readers of adapter_config.json by its peft_type; LoRA's tells more and is apart. */
const PARSERS = {
  S2FT: parseS2ftConfig,
  [SPARSE_TYPE]: parseSparseConfig,
  [LOREFT_TYPE]: parseLoreftConfig,
} as const

/** What methods that change every weight write is a model: a call that names it is told so. */
async function requireNoModel(directory: string): Promise<void> {
  const exists = (name: string) =>
    access(join(directory, name)).then(
      () => true,
      () => false,
    )
  if ((await exists(CONFIG)) || !(await exists('config.json'))) return
  throw new S2FTError(
    'INVALID_ARGUMENT',
    `${directory}: expected an adapter (${CONFIG}), found a whole model (config.json): use it in ` +
      'place of the base',
  )
}

export class Adapter {
  /** @internal Use Adapter.load or trainer.adapter(). */
  constructor(
    readonly info: AdapterInfo,
    /** `<module>.s2ft_delta` and `.s2ft_index`, `.sparse_delta` and `.sparse_index`, `<layer>.loreft_R`, `.loreft_W` and `.loreft_b`, or `<module>.lora_A` and `.lora_B` (DoRA: `.lora_magnitude_vector`). */
    readonly tensors: Map<string, Tensor>,
    /** @internal Ranks and alphas of single LoRA modules. */
    readonly patterns: Pick<LoraConfig, 'ranks' | 'alphas'> = { ranks: {}, alphas: {} },
  ) {
    checkTensors(info, tensors, 'adapter')
  }

  /** Trained values: all tensors but the indices. */
  get parameters(): number {
    let count = 0
    for (const { dtype, data } of this.tensors.values()) if (dtype !== 'I32') count += data.length
    return count
  }

  /** Bytes of all tensors. */
  get bytes(): number {
    let bytes = 0
    for (const { data } of this.tensors.values()) bytes += data.byteLength
    return bytes
  }

  /**
   * Reads an S²FT, sparse or LoReFT adapter, or a LoRA or DoRA adapter in PEFT's format. Nothing in it is trusted: throws IO
   * when a file is missing, CORRUPT_FILE or SHAPE_MISMATCH naming field or tensor, UNSUPPORTED
   * for other kinds of adapter, INVALID_ARGUMENT for a whole model's directory.
   */
  static async load(directory: string): Promise<Adapter> {
    const configFile = join(directory, CONFIG)
    const raw = await readJson(configFile, 'CORRUPT_FILE').catch(async (error: unknown) => {
      await requireNoModel(directory)
      throw error
    })
    const type = (raw as { peft_type?: unknown } | null)?.peft_type
    const file = join(directory, WEIGHTS)
    const parse = Object.hasOwn(PARSERS, String(type)) && PARSERS[type as keyof typeof PARSERS]
    if (!parse && type !== 'LORA') {
      const known = Object.keys(PARSERS).map(show).join(', ')
      throw new S2FTError(
        'UNSUPPORTED',
        `${configFile}: peft_type: expected ${known} or "LORA", found ${show(type)}`,
      )
    }
    if (parse) {
      const info = parse(raw, configFile)
      const { tensors } = await native().readSafetensors(file)
      const map = new Map(Object.entries(tensors))
      checkTensors(info, map, file)
      return new Adapter(info, map)
    }
    const { info, ranks, alphas } = parseLoraConfig(raw, configFile)
    const { tensors, metadata } = await native().readSafetensors(file)
    const map = fromPeftNames(tensors, file)
    checkTensors(info, map, file)
    const fingerprint = metadata[FINGERPRINT]
    if (fingerprint !== undefined) info.baseFingerprint = fingerprint
    const quantization = metadata[QUANTIZATION]
    if (quantization === 'int8' || quantization === 'nf4') info.quantization = quantization
    return new Adapter(info, map, { ranks, alphas })
  }

  /**
   * Writes adapter_config.json and adapter_model.safetensors, complete or not at all; an adapter
   * already there is replaced, other files stay. Throws IO.
   */
  async save(directory: string): Promise<void> {
    const config = configOf(this)
    await publishDirectory(directory, { marker: CONFIG }, async (temporary) => {
      const metadata: Record<string, string> = { format: 'pt' }
      if (this.info.type === 'lora' && this.info.baseFingerprint !== undefined) {
        metadata[FINGERPRINT] = this.info.baseFingerprint
      }
      if (this.info.type === 'lora' && this.info.quantization) {
        metadata[QUANTIZATION] = this.info.quantization
      }
      const named = this.info.type === 'lora' ? toPeftNames(this.tensors) : this.tensors
      const tensors = Object.fromEntries([...named].sort(([a], [b]) => (a < b ? -1 : 1)))
      await native().writeSafetensors(join(temporary, WEIGHTS), tensors, metadata)
      await writeFile(join(temporary, CONFIG), `${JSON.stringify(config, null, 2)}\n`)
    })
  }

  /** @internal */
  static readonly files = { CONFIG, WEIGHTS }
}
