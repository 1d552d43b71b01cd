// Every recipe is a config file that train takes, and trains what recipes/README.md says.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { readConfigFile } from '../../lib/cli/config-file.js'
import { methodOf, type TrainSettings, trainerOptions } from '../../lib/cli/train-options.js'
import { commonSettings, trainSettings } from '../../lib/cli/train-settings.js'
import { resolveMethod } from '../../lib/method/index.js'
import { parseModelConfig } from '../../lib/model/config.js'
import { MODULE_KINDS, moduleShape, parseModule, unitSize } from '../../lib/model/modules.js'
import type { ModuleKind, NativeModelConfig } from '../../lib/native/binding.js'
import { temporaryDirectory } from '../support/directories.js'
import { expectError, jsonLines, s2ft, tinyModel } from './support.js'

const directory = fileURLToPath(new URL('../../recipes', import.meta.url))
const recipes = readdirSync(directory)
  .filter((name) => name.endsWith('.yaml'))
  .map((name) => name.replace('.yaml', ''))
const recipe = (name: string) => join(directory, `${name}.yaml`)

/** The parts of the models' config.json that decide their shapes. */
const llama = { architectures: ['LlamaForCausalLM'], model_type: 'llama', vocab_size: 32_000 }
const shapes: Record<string, object> = {
  'llama-7b': { ...llama, hidden_size: 4096, intermediate_size: 11_008 },
  'llama-13b': {
    ...{ ...llama, hidden_size: 5120, intermediate_size: 13_824 },
    ...{ num_hidden_layers: 40, num_attention_heads: 40 },
  },
  'llama2-7b': { ...llama, hidden_size: 4096, intermediate_size: 11_008 },
  'llama3-8b': {
    ...{ ...llama, vocab_size: 128_256, hidden_size: 4096, intermediate_size: 14_336 },
    num_key_value_heads: 8,
  },
  'mistral-7b': {
    ...{ architectures: ['MistralForCausalLM'], model_type: 'mistral', vocab_size: 32_000 },
    ...{ hidden_size: 4096, intermediate_size: 14_336, num_key_value_heads: 8 },
  },
}
const configOf = (name: string) => parseModelConfig(shapes[name], name).native
const settingsOf = (name: string) =>
  readConfigFile(recipe(name), [...trainSettings, ...commonSettings]) as unknown as TrainSettings

function parameters(config: NativeModelConfig): number {
  const { vocabSize, hiddenSize, layers } = config
  const linear = MODULE_KINDS.reduce((sum, kind) => {
    const [out, input] = moduleShape(config, kind)
    return sum + out * input
  }, 0)
  return layers * (linear + 2 * hiddenSize) + hiddenSize + 2 * vocabSize * hiddenSize
}

function trainable(name: string, config: NativeModelConfig): number {
  const resolved = resolveMethod(methodOf(settingsOf(name)), config)
  if (resolved.kind === 'full') return parameters(config)
  if (resolved.kind === 's2ft' && 'counts' in resolved) {
    return resolved.counts.reduce((sum, counts) => {
      const kinds = Object.entries(counts) as [ModuleKind, number][]
      return sum + kinds.reduce((n, [kind, count]) => n + count * unitSize(config, kind), 0)
    }, 0)
  }
  if (resolved.kind !== 'lora' && resolved.kind !== 'dora') throw new Error(resolved.kind)
  return resolved.modules.reduce((sum, { name, r }) => {
    const [out, input] = moduleShape(config, parseModule(name)!.kind)
    return sum + r * (out + input) + (resolved.kind === 'dora' ? out : 0)
  }, 0)
}

/** Rows of the tables whose first cell is a recipe. */
const rows = readFileSync(join(directory, 'README.md'), 'utf8')
  .split('\n')
  .filter((line) => line.startsWith('| ['))
  .map((line) => line.split('|').map((cell) => cell.trim()))
  .map(([, first, ...cells]) => ({ name: /^\[(.+)\]\(\1\.yaml\)$/.exec(first!)![1]!, cells }))
const percent = (share: number) => `${Number((100 * share).toFixed(3))}%`

test('the tables list every recipe once', () => {
  expect(rows.map(({ name }) => name).sort()).toEqual([...recipes].sort())
})

describe.each(rows.filter(({ name }) => /^(llama|mistral)/.test(name)))('$name', (row) => {
  const [, what, count, share, rate, epochs, batch, length] = row.cells
  const config = configOf(row.name.replace(/-[a-z]+$/, ''))

  test('trains what the table says', () => {
    const found = trainable(row.name, config)
    expect(found.toLocaleString('en-US')).toBe(count)
    expect(percent(found / parameters(config))).toBe(share)
    const method = resolveMethod(methodOf(settingsOf(row.name)), config)
    if (method.kind !== 's2ft' || !('counts' in method)) throw new Error(method.kind)
    const { o, down, ...others } = method.counts[0]!
    expect(others).toEqual({})
    expect(what).toBe(`${o ? `${o} heads of o, ` : ''}${down} channels of down`)
  })

  test('trains no more than LoRA of rank 32, as the comparison wants', () => {
    expect(trainable(row.name, config)).toBeLessThanOrEqual(trainable('lora-math', config))
  })

  test('has the rate, epochs, batch and length of the table', () => {
    const settings = settingsOf(row.name)
    expect(settings).toMatchObject({
      learningRate: Number(rate),
      numTrainEpochs: Number(epochs),
      maxLength: Number(length),
      template: 'alpaca',
    })
    expect(settings.batchSize! * settings.gradientAccumulationSteps!).toBe(Number(batch))
  })
})

describe.each(rows.filter(({ name }) => /^(lora|dora|full)/.test(name)))('$name', (row) => {
  const [rate, ...shares] = row.cells
  const models = ['llama-7b', 'llama-13b', 'llama3-8b', 'mistral-7b']

  test.each(models.map((model, i) => [model, shares[i]]))('%s: %s', (model, share) => {
    const config = configOf(model!)
    expect(percent(trainable(row.name, config) / parameters(config))).toBe(share)
    expect(settingsOf(row.name).learningRate).toBe(Number(rate))
  })
})

test.each(recipes)('%s holds settings that the trainer takes, and no paths', (name) => {
  const settings = settingsOf(name)
  for (const key of ['model', 'data', 'output']) expect(settings).not.toHaveProperty(key)
  const options = trainerOptions({ ...settings, output: 'out' }, methodOf(settings))
  const { batchSize, gradientAccumulationSteps } = settings
  expect(options).toMatchObject({ batchSize, gradientAccumulationSteps, warmupSteps: 100 })
})

describe('with flags', () => {
  test('model, data and output are asked for', () => {
    const args = ['train', '-c', recipe('llama-7b-math')]
    expectError(s2ft(args), 'USAGE', /'--model' not given, nor in a config file/)
    expectError(s2ft([...args, '--model', 'm', '--output', 'o']), 'USAGE', /'--data' not given/)
  })

  test.each(['llama2-7b-commonsense', 'mistral-7b-instruction', 'lora-math', 'full-math'])(
    '%s trains the tiny model',
    (name) => {
      const work = temporaryDirectory()
      const data = join(work, 'data.json')
      const row = { instruction: 'Where is Anna?', input: '', output: 'She is at home.' }
      writeFileSync(data, JSON.stringify(Array.from({ length: 4 }, () => row)))
      const flags = ['--model', tinyModel, '--data', data, '--output', join(work, 'out')]
      const few = ['--max-steps', '2', '--warmup-steps', '1', '--batch-size', '2', '--json']
      const events = jsonLines(s2ft(['train', '-c', recipe(name), ...flags, ...few]))
      expect(events.at(-1)).toMatchObject({ type: 'end', step: 2 })
      const plan = events.find(({ type }) => type === 'plan')!
      expect(plan.trainableParameters).toBeGreaterThan(0)
    },
  )
})
