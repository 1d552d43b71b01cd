// Simulates fine-tuning of a deep linear network by S²FT and LoRA, prints what the numbers show
// and draws measured and predicted risks.
//   node examples/theory/run.mjs [--seeds 20] [--output examples/theory/out/report.html]
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Random } from '../../dist/data/random.js'
import { renderPage } from '../../dist/report/html.js'
import { compareDescent, runSweeps, standard } from './experiment.mjs'
import { findings, theoryPage } from './page.mjs'

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '20' },
    output: {
      type: 'string',
      default: fileURLToPath(new URL('out/report.html', import.meta.url)),
    },
  },
})
const seeds = Number(values.seeds)
if (!Number.isInteger(seeds) || seeds < 2) {
  console.error(`--seeds: expected a whole number from 2, found ${values.seeds}`)
  process.exit(2)
}
const makeUniform = (seed) => {
  const random = new Random(seed)
  return () => random.uint32() / 2 ** 32
}

const results = runSweeps(seeds, makeUniform)
const descent = compareDescent(makeUniform(0))
for (const line of findings(results)) console.log(line)
for (const { method, trainingLoss, leastTrainingLoss } of descent) {
  const losses = [trainingLoss, leastTrainingLoss].map((loss) => loss.toPrecision(8))
  console.log(`gradient descent, ${method}: training loss ${losses[0]}, the least is ${losses[1]}`)
}
const output = resolve(values.output)
const html = await renderPage(theoryPage({ results, descent, seeds, setting: standard }))
mkdirSync(dirname(output), { recursive: true })
writeFileSync(output, html)
console.log(`report: ${output}`)
