// Pretrains the tiny model of the quickstart from random weights, by the package's own full
// fine-tuning, on the generated corpus. Writes models/tiny/ and the quickstart's task.
//   npm run build && node scripts/pretrain-tiny.mjs [--steps N] [--output DIR]
// The same arguments on the same machine give the same bytes.
import { cpSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { writeRandomModel } from '../dist/bench/random-model.js'
import { full, Model, Trainer } from '../dist/index.js'
import { root } from './support/process.mjs'
import { document, generator } from './tiny-corpus.mjs'
import { writeTokenizer } from './tiny-tokenizer.mjs'

const { values } = parseArgs({
  options: {
    steps: { type: 'string', default: '2500' },
    documents: { type: 'string', default: '120000' },
    'learning-rate': { type: 'string', default: '4e-3' },
    output: { type: 'string', default: join(root, 'models/tiny') },
  },
})

const config = {
  vocab_size: 640,
  hidden_size: 128,
  intermediate_size: 384,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 32,
  max_position_embeddings: 256,
  rope_theta: 10000,
  tie_word_embeddings: true,
  bos_token_id: null,
  eos_token_id: 0,
  pad_token_id: 0,
}

/** The corpus as token lists; every token is trained. */
function encodeCorpus(tokenizer, count) {
  const random = generator(1)
  return Array.from({ length: count }, () => {
    const item = document(random)
    const text = item.messages ? tokenizer.applyChatTemplate(item.messages) : `${item.text}<|end|>`
    return { tokens: tokenizer.encode(text, { addSpecialTokens: false }) }
  })
}

/** A document's loss tells how well the small world is known: here over unseen documents. */
async function heldOutLoss(model, tokenizer) {
  const random = generator(2)
  const samples = Array.from({ length: 200 }, () => document(random)).map(({ text, messages }) => ({
    tokens: tokenizer.encode(messages ? tokenizer.applyChatTemplate(messages) : `${text}<|end|>`, {
      addSpecialTokens: false,
    }),
  }))
  return (await model.loss(samples)).loss
}

const work = mkdtempSync(join(tmpdir(), 's2ft-pretrain-'))
try {
  const initial = join(work, 'initial')
  await writeRandomModel(initial, config, 'f32', 1)
  writeTokenizer(initial)
  const model = await Model.load(initial, { dtype: 'f32', threads: 1 })
  const tokenizer = await model.tokenizer()
  const samples = encodeCorpus(tokenizer, Number(values.documents))
  const trainer = new Trainer(model, {
    method: full(),
    learningRate: Number(values['learning-rate']),
    lrScheduler: 'cosine',
    warmupSteps: 50,
    adamBeta2: 0.98,
    weightDecay: 0.01,
    batchSize: 64,
    maxSteps: Number(values.steps),
  })
  const started = performance.now()
  for await (const event of trainer.fit(samples)) {
    if (event.type !== 'step' || (event.step % 50 !== 0 && event.step !== 1)) continue
    const seconds = ((performance.now() - started) / 1000).toFixed(0)
    console.log(
      `step ${event.step}/${event.totalSteps}  loss ${event.loss.toFixed(4)}  ${seconds} s`,
    )
  }
  await trainer.dispose()
  console.log(`loss on unseen documents: ${(await heldOutLoss(model, tokenizer)).toFixed(4)}`)
  const finished = join(work, 'finished')
  await model.save(finished, { dtype: 'bf16' })
  await model.dispose()
  rmSync(values.output, { recursive: true, force: true })
  cpSync(finished, values.output, { recursive: true })
  console.log(`wrote ${values.output}: ${readdirSync(values.output).join(', ')}`)
} finally {
  rmSync(work, { recursive: true, force: true })
}
