// Adapters in formats of others: GGUF read back byte by byte, by the gguf package and by a reader of
// our own; PEFT's by PEFT. Both peers are skipped, visibly, where no Python has them.
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readGgufHead } from '../../lib/adapter/gguf-file.js'
import { servingLimits } from '../../lib/adapter/serving-limits.js'
import { toFloat16 } from '../../lib/adapter/values.js'
import { exportAdapter } from '../../lib/cli/export-adapter.js'
import { Adapter, dora, lora, type Method, Model, s2ft, Trainer } from '../../lib/index.js'
import { temporaryDirectory } from '../support/directories.js'
import { goldenRoot, relativeError } from '../support/golden.js'
import { rejection } from '../support/rejection.js'

const directory = join(goldenRoot, 'llama-gqa')
const probe = Int32Array.of(5, 66, 10, 0, 43, 20, 61)
const ratios = { q: 0.5, k: 0.5, v: 0.5, o: 0.25, gate: 0.1, up: 0.1, down: 0.2 }
const python = process.env.S2FT_PEER_PYTHON ?? 'python3'
const has = (modules: string) => spawnSync(python, ['-c', `import ${modules}`]).status === 0
const script = (name: string) => fileURLToPath(new URL(`../support/${name}`, import.meta.url))

const [hasGguf, hasPeft] = [has('gguf'), has('torch, transformers, peft')]
if (!hasGguf) console.warn('gguf: skipped, S2FT_PEER_PYTHON names no Python with gguf')
if (!hasPeft) console.warn('PEFT: skipped, S2FT_PEER_PYTHON names no Python with peft')

let model: Model
beforeAll(async () => {
  model = await Model.load(directory, { device: 'cpu', dtype: 'f32' })
})
afterAll(() => model.dispose())

async function saved(method: Method): Promise<string> {
  const trainer = new Trainer(model, { method, learningRate: 0.05 })
  await trainer.step([{ tokens: [1, 2, 3, 4, 5, 6, 7, 8] }])
  const folder = temporaryDirectory()
  await (await trainer.adapter()).save(folder)
  await trainer.dispose()
  return folder
}

const exported = async (adapter: string, format: 'gguf' | 'peft', more: object = {}) => {
  const output = join(temporaryDirectory(), 'out')
  const settings = { model: directory, adapter, output, format, outtype: 'f32' as const, ...more }
  return { output, report: await exportAdapter(settings) }
}

/** What llama.cpp adds to a module of the model, in the checkpoint's order of rows: [out, in]. */
async function changeOf(file: string, module: string, native: Model['config']['native']) {
  const { tensors, metadata, dataStart } = await readGgufHead(file)
  const bytes = readFileSync(file)
  const read = (name: string) => {
    const { shape, offset, type } = tensors.find((tensor) => tensor.name === name)!
    expect(type).toBe(0)
    expect(offset % 32).toBe(0)
    const start = dataStart + offset
    const data = bytes.buffer.slice(bytes.byteOffset + start)
    return { shape, values: new Float32Array(data, 0, shape[0]! * shape[1]!) }
  }
  const a = read(`${module}.weight.lora_a`)
  const b = read(`${module}.weight.lora_b`)
  const [r, input] = a.shape as [number, number]
  const out = b.shape[0]!
  expect(b.shape).toEqual([out, r])
  const alpha = metadata.get('adapter.lora.alpha') as number
  // llama.cpp's rule.
  const scale = alpha === 0 ? 1 : alpha / r
  const change = new Float64Array(out * input)
  const heads = module.endsWith('_q') ? native.heads : module.endsWith('_k') ? native.kvHeads : 0
  const size = heads === 0 ? 0 : out / heads
  for (let row = 0; row < out; row++) {
    // Back from neighbours to halves.
    const place = row % (size || 1)
    const half = (place % 2) * (size / 2) + Math.floor(place / 2)
    const original = heads === 0 ? row : row - place + half
    for (let k = 0; k < r; k++) {
      for (let col = 0; col < input; col++) {
        change[original * input + col]! +=
          scale * b.values[row * r + k]! * a.values[k * input + col]!
      }
    }
  }
  return change
}

describe('GGUF', () => {
  test('an S²FT adapter is the same change, bit by bit, with q and k permuted', async () => {
    const from = await saved(s2ft({ ratios }))
    const { output, report } = await exported(from, 'gguf')
    expect(report).toMatchObject({ modules: 7 * model.config.native.layers, notes: [] })
    const file = join(output, 'adapter_model.gguf')
    const { metadata } = await readGgufHead(file)
    expect(Object.fromEntries(metadata)).toMatchObject({
      'general.architecture': 'llama',
      'general.type': 'adapter',
      'adapter.type': 'lora',
      'adapter.lora.alpha': 0,
      'general.quantization_version': 2,
    })
    const { tensors } = await Adapter.load(from)
    const { native } = model.config
    for (const [gguf, own, rows] of [
      ['attn_q', 'self_attn.q_proj', true],
      ['attn_k', 'self_attn.k_proj', true],
      ['attn_v', 'self_attn.v_proj', true],
      ['attn_output', 'self_attn.o_proj', false],
      ['ffn_gate', 'mlp.gate_proj', true],
      ['ffn_up', 'mlp.up_proj', true],
      ['ffn_down', 'mlp.down_proj', false],
    ] as const) {
      const change = await changeOf(file, `blk.0.${gguf}`, native)
      const delta = tensors.get(`model.layers.0.${own}.s2ft_delta`)!
      const index = tensors.get(`model.layers.0.${own}.s2ft_index`)!.data
      const wanted = new Float64Array(change.length)
      const [n, m] = delta.shape as [number, number]
      const width = rows ? m : change.length / n
      for (let i = 0; i < n; i++) {
        for (let j = 0; j < m; j++) {
          wanted[rows ? index[i]! * width + j : i * width + index[j]!] = delta.data[i * m + j]!
        }
      }
      expect(change, gguf).toEqual(wanted)
    }
  })

  test('one alpha where all modules share it, the scale in B where not', async () => {
    const alphaOf = async (method: Method) => {
      const { output } = await exported(await saved(method), 'gguf')
      const { metadata } = await readGgufHead(join(output, 'adapter_model.gguf'))
      return metadata.get('adapter.lora.alpha')
    }
    expect(await alphaOf(lora({ r: 2, alpha: 3 }))).toBe(3)
    expect(await alphaOf(lora({ r: 4, alpha: 3, rslora: true }))).toBeCloseTo(6)
    expect(await alphaOf(lora({ r: 2, alpha: 3, alphaPattern: { q: 5 } }))).toBe(0)
    expect(await alphaOf(s2ft({ ratios: { down: 0.1 } }))).toBeGreaterThan(0)
  })

  test('f16 and bf16 take half the bytes; values that do not fit are named', async () => {
    const from = await saved(s2ft({ ratios }))
    const sizes: number[] = []
    for (const outtype of ['f32', 'f16', 'bf16']) {
      const { output } = await exported(from, 'gguf', { outtype })
      const { tensors, dataStart } = await readGgufHead(join(output, 'adapter_model.gguf'))
      expect(new Set(tensors.map(({ type }) => type))).toEqual(
        new Set([{ f32: 0, f16: 1, bf16: 30 }[outtype]]),
      )
      sizes.push(readFileSync(join(output, 'adapter_model.gguf')).length - dataStart)
    }
    expect(sizes[1]).toBe(sizes[2])
    expect(sizes[1]! / sizes[0]!).toBeLessThan(0.55)
    expect(() => toFloat16(Float32Array.of(1, 7e4), 'x')).toThrow(/x\[1\].*65504/)
    // Halves, the smallest ones and ties to even.
    const values = [0, -0, 1, -2, 65504, 2 ** -14, 2 ** -24, 2 ** -25, 3 * 2 ** -25, 1 + 2 ** -11]
    expect([...toFloat16(Float32Array.from(values), 'x')]).toEqual([
      0, 0x8000, 0x3c00, 0xc000, 0x7bff, 0x0400, 1, 0, 2, 0x3c00,
    ])
  })

  test('DoRA is refused', async () => {
    const error = await rejection(async () => exported(await saved(dora({ r: 2 })), 'gguf'))
    expect(error.code).toBe('UNSUPPORTED')
    expect(error.message).toContain('merge')
  })

  test('a broken file is told, not believed', async () => {
    const { output } = await exported(await saved(s2ft({ ratios })), 'gguf')
    const bytes = readFileSync(join(output, 'adapter_model.gguf'))
    const file = join(temporaryDirectory(), 'broken.gguf')
    for (const length of [0, 3, 10, 24, 60, 500, bytes.length - 1]) {
      writeFileSync(file, bytes.subarray(0, length))
      const error = await rejection(() => readGgufHead(file))
      expect(error.code, `${length} bytes`).toBe('CORRUPT_FILE')
    }
    const endless = Buffer.from(bytes)
    endless.writeBigUInt64LE(2n ** 63n, 8)
    writeFileSync(file, endless)
    expect((await rejection(() => readGgufHead(file))).code).toBe('CORRUPT_FILE')
  })

  test.skipIf(!hasGguf)('the gguf package reads the same', async () => {
    const { output } = await exported(await saved(s2ft({ ratios })), 'gguf')
    const file = join(output, 'adapter_model.gguf')
    const ran = spawnSync(python, [script('read_gguf.py'), file], { encoding: 'utf8' })
    expect(ran.status, ran.stderr).toBe(0)
    const found = JSON.parse(ran.stdout)
    const { tensors } = await readGgufHead(file)
    expect(found.fields['general.type']).toBe('adapter')
    expect(found.fields['adapter.type']).toBe('lora')
    expect(found.tensors).toEqual(tensors.map(({ name, shape }) => ({ name, shape, type: 'F32' })))
    expect(found.unknown).toEqual([])
  })
})

describe('ranks', () => {
  test('above --max-rank is refused, naming the module and its rank', async () => {
    const from = await saved(s2ft({ ratios: { down: 0.2, o: 0.25 } }))
    const error = await rejection(() => exported(from, 'peft', { maxRank: 4 }))
    expect(error.code).toBe('UNSUPPORTED')
    expect(error.message).toMatch(/model\.layers\.\d\..*--max-rank 4, found \d+/)
    const { report } = await exported(from, 'peft', { maxRank: 16 })
    expect(report.rank).toBeLessThanOrEqual(16)
  })

  test('what servers take is said', async () => {
    const limits = async (method: Method) => {
      const { output } = await exported(await saved(method), 'peft')
      return servingLimits(await Adapter.load(output), model.config.native)
    }
    expect(await limits(lora({ r: 16 }))).toMatchObject({ vllmMaxLoraRank: 16, notes: [] })
    expect((await limits(lora({ r: 17 }))).notes.join()).toContain('--max-lora-rank 32')
    expect((await limits(lora({ r: 300 }))).notes.join()).toContain('--lora-max-rank 300')
    expect((await limits(lora({ r: 513 }))).vllmMaxLoraRank).toBeUndefined()
    // One scale for all modules, although ranks differ: vLLM needs no pattern.
    expect(await limits(s2ft({ ratios }))).toMatchObject({ vllmMaxLoraRank: expect.any(Number) })
    const patterns = await limits(lora({ r: 2, alpha: 4, rankPattern: { q: 4 } }))
    expect(patterns.notes.join()).toContain('rank_pattern')
    expect((await limits(dora({ r: 2 }))).notes.join()).toContain('DoRA')
  })
})

describe.skipIf(!hasPeft)('PEFT', () => {
  test.each<[string, Method]>([
    ['S²FT with a rank for each module', s2ft({ ratios })],
    [
      'LoRA with patterns',
      lora({ r: 2, alpha: 3, rankPattern: { down: 5 }, alphaPattern: { q: 7 } }),
    ],
    ['rsLoRA', lora({ r: 3, alpha: 3, rslora: true })],
    ['DoRA', dora({ r: 2 })],
  ])('computes our logits: %s', async (_, method) => {
    const from = await saved(method)
    const { output } = await exported(from, 'peft')
    const ran = spawnSync(python, [script('peft_logits.py'), directory, output, probe.join()], {
      encoding: 'utf8',
      maxBuffer: 1e8,
    })
    expect(ran.status, ran.stderr).toBe(0)
    const adapter = await Adapter.load(from)
    const before = await model.logits(probe)
    await model.fuse(adapter)
    const own = await model.logits(probe)
    await model.unfuse(adapter)
    const theirs = Float32Array.from(JSON.parse(ran.stdout))
    expect(relativeError(own, theirs)).toBeLessThan(1e-5)
    expect(relativeError(before, theirs)).toBeGreaterThan(1e-3)
  })
})
