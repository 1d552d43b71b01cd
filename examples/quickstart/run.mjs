// Tunes the package's own tiny model by S²FT on a small task, and shows what it learned: a new
// form of answer, `It is Eastport, the place.`, where the base says `Milo lives in Eastport.`
// The held-out questions are about people, sums and stories that training never shows.
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { loadDataset, Model, s2ft, Trainer } from 's2ft'
import { plot } from './plot.mjs'

const here = (path) => fileURLToPath(new URL(path, import.meta.url))

/** Share of the questions that are answered exactly, and the answers. */
async function evaluate(model, items) {
  const prompts = items.map(({ messages }) => messages.slice(0, -1))
  const results = await model.generateBatch(prompts, { maxNewTokens: 24, slots: 16 })
  const answers = results.map(({ text }) => text.trim())
  const right = answers.filter((answer, i) => answer === items[i].messages.at(-1).content).length
  return { answers, right, share: right / items.length }
}

const directoryBytes = (path) =>
  readdirSync(path).reduce((sum, name) => sum + statSync(join(path, name)).size, 0)
const percent = (share) => `${(100 * share).toFixed(1)}%`

const started = performance.now()
const training = await loadDataset(here('train.jsonl'))
const heldOut = (await loadDataset(here('heldout.jsonl'))).rows
const output = mkdtempSync(join(tmpdir(), 's2ft-quickstart-'))
// A model this small gains nothing from a second thread.
const model = await Model.load(here('../../models/tiny'), { dtype: 'f32', threads: 1 })
try {
  console.log(`model      ${model.parameters.toLocaleString('en')} parameters, LLaMA architecture`)
  console.log(`data       ${training.rows.length} samples to train on, ${heldOut.length} held out`)
  const before = await evaluate(model, heldOut)
  console.log(`held-out before   ${percent(before.share)} exact answers`)

  const trainer = new Trainer(model, {
    method: s2ft({ ratios: { q: 0.25, k: 0.5, v: 0.5, o: 0.25 }, seed: 0 }),
    learningRate: 3e-3,
    lrScheduler: 'cosine',
    warmupSteps: 10,
    batchSize: 16,
    numTrainEpochs: 12,
  })
  const losses = []
  for await (const event of trainer.fit(training)) {
    if (event.type === 'plan') {
      const share = event.trainableParameters / model.parameters
      console.log(
        `training   ${event.totalSteps} steps of 16 samples; ` +
          `${event.trainableParameters.toLocaleString('en')} values train (${percent(share)})`,
      )
    }
    if (event.type === 'step') losses.push(event.loss)
  }
  console.log(
    `\nloss, from ${losses[0].toFixed(2)} to ${losses.at(-1).toFixed(2)}\n${plot(losses)}\n`,
  )

  const adapter = await trainer.adapter()
  await adapter.save(join(output, 'adapter'))
  await trainer.dispose()

  // The trainer gave the base back; from here on the saved adapter alone makes the difference.
  await model.fuse(adapter)
  const after = await evaluate(model, heldOut)
  console.log(`held-out after    ${percent(after.share)} exact answers\n`)
  for (const i of [0, Math.floor(heldOut.length * 0.6), heldOut.length - 1]) {
    const question = heldOut[i].messages[0].content
    console.log(`  ${question}`)
    console.log(`    before  ${before.answers[i]}`)
    console.log(`    after   ${after.answers[i]}`)
  }
  const adapterBytes = directoryBytes(join(output, 'adapter'))
  const share = adapterBytes / directoryBytes(model.directory)
  console.log(
    `\nadapter    ${adapterBytes.toLocaleString('en')} bytes (${percent(share)} of the model)`,
  )
  console.log(`time       ${((performance.now() - started) / 1000).toFixed(1)} s`)
  process.exitCode = after.share > before.share ? 0 : 1
} finally {
  await model.dispose()
  rmSync(output, { recursive: true, force: true })
}
