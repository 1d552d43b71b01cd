// The small world that the tiny model knows: people, towns, sums and stories in plain
// English, written by a seeded generator. The same seed gives the same text on any machine.
//   node scripts/tiny-corpus.mjs [COUNT]    prints sample documents

/** A seeded generator (mulberry32): uniform numbers, picks and shuffles. */
export function generator(seed) {
  let state = seed >>> 0
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
  const below = (n) => Math.floor(uniform() * n)
  const shuffle = (list) => {
    const copy = [...list]
    for (let i = copy.length - 1; i > 0; --i) {
      const j = below(i + 1)
      const held = copy[i]
      copy[i] = copy[j]
      copy[j] = held
    }
    return copy
  }
  return { uniform, below, shuffle, pick: (list) => list[below(list.length)] }
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1)
const words = (text) => text.trim().split(/\s+/)

const names = words(`
  Ada Alan Anna Arno Bela Bert Carl Clara Dora Edna Egon Ella Emil Erik Flora Fred Greta Hans
  Hugo Ida Ines Ivan Jana Jonas Karla Kurt Lena Leo Lola Lukas Mara Max Mia Milo Nora Olga Otto
  Paul Petra Rosa Ruth Sam Sofia Tom Ulla Vera Wim Zoe`)
const towns = words(`
  Ashford Bergen Clifton Danby Eastport Fairhill Granby Holton Kingsley Linden Melrose Newbury`)
const lands = words('sea lake forest river hills desert')
const jobs = words(`
  baker barber carpenter clerk cook doctor driver farmer fisher gardener judge miner nurse
  painter pilot singer tailor teacher`)
const pets = words('bird cat crab dog fish frog goat hen horse mouse rabbit turtle')
const colours = words('black blue brown green grey pink red white yellow')
const foods = words('apples beans bread cake cheese corn honey noodles pears plums rice soup')
const things = words('ball bell book box coat cup drum hat key lamp map pen plate ring rope shoe')
const opposites = words(
  'big small hot cold old new long short fast slow full empty hard soft light dark loud quiet',
)
export const numbers = words(`
  zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
  sixteen seventeen eighteen nineteen twenty`)

/** Everyone in the world, with everything there is to know about them. */
export const people = (() => {
  const random = generator(7)
  const friends = random.shuffle(names)
  return names.map((name) => ({
    name,
    place: random.pick(towns),
    job: random.pick(jobs),
    pet: random.pick(pets),
    colour: random.pick(colours),
    food: random.pick(foods),
    friend: friends[(friends.indexOf(name) + 1) % friends.length],
  }))
})()

/** What is known of a person: ways to say it, ways to ask for it, the full answer. */
export const facts = {
  place: {
    say: [
      (p) => `${p.name} lives in ${p.place}.`,
      (p) => `The home of ${p.name} is in ${p.place}.`,
    ],
    ask: [(p) => `Where does ${p.name} live?`, (p) => `In which place is the home of ${p.name}?`],
  },
  job: {
    say: [(p) => `${p.name} works as a ${p.job}.`, (p) => `The job of ${p.name} is ${p.job}.`],
    ask: [(p) => `What does ${p.name} work as?`, (p) => `What is the job of ${p.name}?`],
  },
  pet: {
    say: [(p) => `${p.name} has a ${p.pet}.`, (p) => `The pet of ${p.name} is a ${p.pet}.`],
    ask: [(p) => `Which animal does ${p.name} have?`, (p) => `What is the pet of ${p.name}?`],
  },
  colour: {
    say: [
      (p) => `${p.name} likes ${p.colour} best.`,
      (p) => `The colour of ${p.name} is ${p.colour}.`,
    ],
    ask: [(p) => `What does ${p.name} like best?`, (p) => `What is the colour of ${p.name}?`],
  },
  food: {
    say: [
      (p) => `${p.name} eats ${p.food} every day.`,
      (p) => `The food of ${p.name} is ${p.food}.`,
    ],
    ask: [(p) => `What does ${p.name} eat every day?`, (p) => `What is the food of ${p.name}?`],
  },
  friend: {
    say: [
      (p) => `${p.name} often meets ${p.friend}.`,
      (p) => `The friend of ${p.name} is ${p.friend}.`,
    ],
    ask: [(p) => `Whom does ${p.name} often meet?`, (p) => `Who is the friend of ${p.name}?`],
  },
}
export const factKinds = Object.keys(facts)

/** A sum or difference with its question in two forms; operands may be given. */
export function arithmetic(random, operands = undefined) {
  const plus = operands?.plus ?? random.uniform() < 0.5
  const [a, b] = operands?.pair ?? [random.below(11), random.below(11)]
  const [x, y] = plus ? [a, b] : [a + b, b]
  const kind = plus ? 'sum' : 'difference'
  const value = numbers[plus ? a + b : a]
  const sign = plus ? 'plus' : 'minus'
  const form = random.below(2)
  return {
    kind,
    value,
    ask: [
      `What is ${numbers[x]} ${sign} ${numbers[y]}?`,
      `What is the ${kind} of ${numbers[x]} and ${numbers[y]}?`,
    ][form],
    say: sentence(
      [
        `${numbers[x]} ${sign} ${numbers[y]} is ${value}.`,
        `the ${kind} of ${numbers[x]} and ${numbers[y]} is ${value}.`,
      ][form],
    ),
  }
}

/** Two or three people hold things; one question about who holds what. */
export function story(random) {
  const count = 2 + random.below(2)
  const who = random.shuffle(names).slice(0, count)
  const what = random.shuffle(things).slice(0, count)
  const verb = random.pick(['holds', 'found', 'bought'])
  const asked = random.below(count)
  const text = who
    .map((name, i) => `${name} ${verb} a ${random.pick(colours)} ${what[i]}.`)
    .join(' ')
  const [ask, say] = random.pick([
    [`Who ${verb} the ${what[asked]}?`, `${who[asked]} ${verb} the ${what[asked]}.`],
    [
      `Who is the owner of the ${what[asked]}?`,
      `The owner of the ${what[asked]} is ${who[asked]}.`,
    ],
  ])
  return { kind: 'owner', value: who[asked], ask: `${text} ${ask}`, say }
}

/** A question about a person and its answer in a full sentence, in the same wording. */
function factQuestion(random, person, kind) {
  const form = random.below(2)
  const [ask, say] = [facts[kind].ask[form](person), facts[kind].say[form](person)]
  return { ask, say, value: person[kind] }
}

function general(random) {
  const town = random.pick(towns)
  const at = random.below(opposites.length / 2) * 2
  const [a, b] = random.shuffle(opposites.slice(at, at + 2))
  const [low, high] = [random.below(10), 11 + random.below(10)]
  const text = random.pick([
    `${town} is a place by the ${lands[towns.indexOf(town) % lands.length]}.`,
    `A ${random.pick(pets)} is an animal, and so is a ${random.pick(pets)}.`,
    `A ${random.pick(pets)} can be a pet.`,
    `${random.pick(colours)} is a colour.`,
    `A ${random.pick(jobs)} has a job.`,
    `${a} is not ${b}.`,
    `The other way round of ${a} is ${b}.`,
    `${numbers[high]} is more than ${numbers[low]}.`,
    `Some food: ${random.shuffle(foods).slice(0, 3).join(', ')}.`,
    `Some things: a ${random.shuffle(things).slice(0, 3).join(', a ')}.`,
    `${random.pick(names)} said: I like my ${random.pick(things)}.`,
  ])
  return sentence(text)
}

function prose(random) {
  const kind = random.uniform()
  if (kind < 0.6) {
    const person = random.pick(people)
    return random
      .shuffle(factKinds)
      .slice(0, 2 + random.below(4))
      .map((fact) => random.pick(facts[fact].say)(person))
      .join(' ')
  }
  if (kind < 0.7) return general(random)
  if (kind < 0.85) {
    return [0, 1, 2].map(() => arithmetic(random).say).join(' ')
  }
  const { ask, say } = story(random)
  return `${ask} ${say}`
}

/** Sometimes a question asks for the bare fact: then the answer is `It is <value>.` */
function inShort(random, { ask, say, value }) {
  if (random.uniform() < 0.6) return { ask, say }
  return { ask: `${ask} In short.`, say: `It is ${value}.` }
}

function conversation(random) {
  const messages = []
  for (let turn = 0; turn <= random.below(2); ++turn) {
    const kind = random.uniform()
    let pair
    if (kind < 0.6) pair = factQuestion(random, random.pick(people), random.pick(factKinds))
    else if (kind < 0.8) pair = arithmetic(random)
    else pair = story(random)
    const { ask, say } = inShort(random, pair)
    messages.push({ role: 'user', content: ask }, { role: 'assistant', content: say })
  }
  return messages
}

/** A document of the corpus: { text } or { messages }. */
export function document(random) {
  return random.uniform() < 0.4 ? { text: prose(random) } : { messages: conversation(random) }
}

if (process.argv[1] === import.meta.filename) {
  const random = generator(1)
  for (let i = 0; i < Number(process.argv[2] ?? 20); ++i) {
    console.log(JSON.stringify(document(random)))
  }
}
