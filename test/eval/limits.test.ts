// What an evaluation does where the model reaches its limits: long samples, no numbers.
import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { evaluateChoice, evaluateGenerated } from '../../lib/eval/accuracy.js'
import { evaluateLoss } from '../../lib/eval/loss.js'
import type { EvalOptions } from '../../lib/eval/types.js'
import { loadDataset, Model } from '../../lib/index.js'
import { tinyModel } from '../cli/support.js'
import { temporaryDirectory } from '../support/directories.js'

const work = temporaryDirectory()
const file = (name: string, content: string) => {
  writeFileSync(join(work, name), content)
  return join(work, name)
}
const options: EvalOptions = { template: 'none', batchSize: 4, maxNewTokens: 4 }
/** Of the tiny model. */
const POSITIONS = 256

describe('samples longer than the model has positions', () => {
  test('are cut as in training, and told', async () => {
    await using model = await Model.load(tinyModel)
    const long = { prompt: 'Where is Milo?', completion: ' Milo is in Eastport.'.repeat(100) }
    const data = await loadDataset(file('long.jsonl', `${JSON.stringify(long)}\n`))
    const warnings: string[] = []
    const onWarning = (warning: string) => warnings.push(warning)
    const found = await evaluateLoss(model, data, { ...options, onWarning })
    expect(found).toMatchObject({ count: 1, truncated: 1 })
    expect(found.tokens).toBeLessThan(POSITIONS)
    expect(warnings).toHaveLength(1)
    const longer = await evaluateLoss(model, data, { ...options, maxLength: 300 })
    expect(longer.tokens).toBe(found.tokens + 300 - POSITIONS)
  })

  test('are told of where prompts are not cut', async () => {
    await using model = await Model.load(tinyModel)
    const question = 'Where is Milo? '.repeat(60)
    const rows = [
      { question: 'Where is Milo?', choices: ['here', 'there'], answer: 0 },
      { question, choices: ['here', 'there'], answer: 1 },
    ]
    const choices = await loadDataset(file('long-choice.json', JSON.stringify(rows)))
    const warnings: string[] = []
    const onWarning = (warning: string) => warnings.push(warning)
    expect((await evaluateChoice(model, choices, { ...options, onWarning })).count).toBe(2)
    const one = /^1 prompt is longer than 256 tokens, the first is .*long-choice\.json\[1\]$/
    expect(warnings).toEqual([expect.stringMatching(one)])
    const problem = { instruction: 'Where is Milo?', output: '4', answer: '4' }
    const math = await loadDataset(file('short.json', JSON.stringify([problem])))
    // A prompt that fits, and no room for what is generated.
    const generated = { ...options, onWarning, maxNewTokens: POSITIONS }
    await evaluateGenerated(model, math, 'math', {
      ...generated,
      signal: AbortSignal.abort(),
    }).catch(() => {})
    expect(warnings.at(-1)).toMatch(/^1 prompt is longer than 256 tokens/)
    expect(warnings).toHaveLength(2)
  })

  test('do not come of a text file: its blocks fit', async () => {
    await using model = await Model.load(tinyModel)
    const data = await loadDataset(file('text.txt', 'Milo is in Eastport. '.repeat(200)))
    const sizes: number[] = []
    await evaluateLoss(model, data, {
      ...options,
      onSample: ({ tokens }) => sizes.push(tokens as number),
    })
    expect(sizes.length).toBeGreaterThan(1)
    expect(Math.max(...sizes)).toBeLessThanOrEqual(POSITIONS)
  })
})

test('a model that answers with no numbers has neither loss nor accuracy', async () => {
  const broken = join(work, 'broken')
  cpSync(tinyModel, broken, { recursive: true })
  const weights = join(broken, 'model.safetensors')
  const bytes = readFileSync(weights)
  bytes.fill(0xff, 8 + Number(bytes.readBigUInt64LE()))
  writeFileSync(weights, bytes)
  await using model = await Model.load(broken)
  const row = { question: 'Where is Milo?', choices: ['here', 'there'], answer: 0 }
  const data = await loadDataset(file('choice.jsonl', `${JSON.stringify(row)}\n`))
  const text = await loadDataset(file('one.txt', 'Milo is in Eastport.'))
  const broke = { code: 'NOT_FINITE' }
  await expect(evaluateLoss(model, text, options)).rejects.toMatchObject(broke)
  await expect(evaluateChoice(model, data, options)).rejects.toMatchObject(broke)
})
