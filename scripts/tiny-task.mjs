// The quickstart's task: answer not by repeating the question as a statement, as the tiny model
// learned, but shortly and with the kind of the answer: `It is Eastport, the place.`
// Writes examples/quickstart/train.jsonl and heldout.jsonl. Held-out questions are about
// people, sums and stories that training never shows.
//   node scripts/tiny-task.mjs [DIR]
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { arithmetic, factKinds, facts, generator, people, story } from './tiny-corpus.mjs'

const heldOutPeople = 12
const heldOutSums = 30
const heldOutStories = 30
const trainingSums = 150
const trainingStories = 150

const entry = (question, kind, value) => ({
  messages: [
    { role: 'user', content: question },
    { role: 'assistant', content: `It is ${value}, the ${kind}.` },
  ],
})

/** All pairs of operands, plus and minus, in a random order. */
function operandPairs(random) {
  const pairs = []
  for (const plus of [true, false]) {
    for (let a = 0; a <= 10; ++a) for (let b = 0; b <= 10; ++b) pairs.push({ plus, pair: [a, b] })
  }
  return random.shuffle(pairs)
}

/** Both parts of the task: lists of { messages }. */
export function task() {
  const random = generator(11)
  const aboutPeople = (list) =>
    list.flatMap((person) =>
      factKinds.map((kind) => entry(random.pick(facts[kind].ask)(person), kind, person[kind])),
    )
  const question = ({ kind, ask, value }) => entry(ask, kind, value)
  const order = random.shuffle(people)
  const pairs = operandPairs(random)
  const stories = new Map()
  while (stories.size < heldOutStories + trainingStories) {
    const item = story(random)
    stories.set(item.ask, question(item))
  }
  const tales = [...stories.values()]
  const sums = (list) => list.map((operands) => question(arithmetic(random, operands)))
  return {
    heldout: [
      ...aboutPeople(order.slice(0, heldOutPeople)),
      ...sums(pairs.slice(0, heldOutSums)),
      ...tales.slice(0, heldOutStories),
    ],
    train: random.shuffle([
      ...aboutPeople(order.slice(heldOutPeople)),
      ...sums(pairs.slice(heldOutSums, heldOutSums + trainingSums)),
      ...tales.slice(heldOutStories),
    ]),
  }
}

if (process.argv[1] === import.meta.filename) {
  const directory = process.argv[2] ?? 'examples/quickstart'
  mkdirSync(directory, { recursive: true })
  for (const [name, items] of Object.entries(task())) {
    const lines = items.map((item) => `${JSON.stringify(item)}\n`).join('')
    writeFileSync(join(directory, `${name}.jsonl`), lines)
  }
}
