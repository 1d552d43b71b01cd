// How long the samples of a plain text file are when nobody says.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { loadDataset, Model, s2ft, Trainer } from '../../lib/index.js'
import { hasTokenizer, makeModel } from '../cli/support.js'
import { temporaryDirectory } from '../support/directories.js'

const text = 'One and two are three, as anybody can tell who counts on three fingers. '.repeat(300)

/** Samples of a run over `file`, and the number of tokens of all text. */
async function plan(file: string, contents: string, positions: number, maxLength?: number) {
  const directory = await makeModel(temporaryDirectory())
  const config = JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8'))
  config.max_position_embeddings = positions
  writeFileSync(join(directory, 'config.json'), JSON.stringify(config))
  const data = join(directory, file)
  writeFileSync(data, contents)
  await using model = await Model.load(directory, { threads: 1 })
  await using trainer = new Trainer(model, {
    method: s2ft(),
    ...(maxLength === undefined ? {} : { encode: { maxLength } }),
  })
  const tokens = (await model.tokenizer()).encode(text).length
  for await (const event of trainer.fit(await loadDataset(data))) {
    if (event.type === 'plan') return { samples: event.samples, tokens }
  }
  throw new Error('expected a plan')
}

describe.skipIf(!hasTokenizer)('a text file', () => {
  test('is cut into blocks of 1024 tokens, not of the whole context', async () => {
    const { samples, tokens } = await plan('book.txt', text, 8192)
    expect(tokens).toBeGreaterThan(3 * 1024)
    expect(samples).toBeGreaterThanOrEqual(Math.ceil(tokens / 1024))
    expect(samples).toBeLessThanOrEqual(Math.ceil(tokens / 1024) + 1)
  })

  test.each([
    ['the context of a model that takes less', 256, undefined, 256],
    ['the maxLength that is asked for', 8192, 2048, 2048],
  ])('or into blocks of %s', async (_, positions, maxLength, block) => {
    const { samples, tokens } = await plan('book.txt', text, positions, maxLength)
    expect(samples).toBeGreaterThanOrEqual(Math.ceil(tokens / block))
    expect(samples).toBeLessThanOrEqual(Math.ceil(tokens / block) + 1)
  })

  test('rows of text keep the whole context', async () => {
    const { samples } = await plan('rows.jsonl', `${JSON.stringify({ text })}\n`, 65_536)
    expect(samples).toBe(1)
  })
})
