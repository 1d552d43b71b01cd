// A small data folder in the study's layout, so that the whole study runs in seconds.
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { temporaryDirectory } from '../support/directories.js'

const names = ['Mia', 'Zoe', 'Olga', 'Lukas', 'Milo']

function math(i: number) {
  const [a, b] = [2 + (i % 7), 3 + (i % 5)]
  const question = `${names[i % 5]} has ${a} apples and buys ${b}. How many now?`
  return { question, worked: `${a} + ${b} = ${a + b}.`, sum: a + b }
}

/** Writes the folder; rows differ from file to file by their offset. Returns its path. */
export function studyDataFolder(): string {
  const folder = temporaryDirectory()
  const write = (file: string, text: string) => {
    mkdirSync(dirname(join(folder, file)), { recursive: true })
    writeFileSync(join(folder, file), text)
  }
  const rows = <T>(count: number, make: (i: number) => T) =>
    Array.from({ length: count }, (_, i) => make(i))
  const lines = (values: object[]) => values.map((value) => `${JSON.stringify(value)}\n`).join('')
  write(
    'math/gsm8k-train.jsonl',
    lines(
      rows(40, (i) => {
        const { question, worked, sum } = math(i)
        return { question, answer: `${worked}\n#### ${sum}` }
      }),
    ),
  )
  for (const [k, name] of ['gsm8k', 'SVAMP', 'MultiArith', 'mawps', 'AQuA'].entries()) {
    const values = rows(6, (i) => {
      const { question, worked, sum } = math(i + 11 * k)
      const letter = name === 'AQuA'
      return {
        instruction: question,
        input: '',
        output: name === 'mawps' ? '' : `${worked} The answer is ${letter ? '(C)' : sum}.`,
        answer: letter ? 'C' : `${sum}.0`,
      }
    })
    write(`math/${name}-test.json`, JSON.stringify(values))
  }
  const families: Record<string, [label: string, count: number]> = {
    boolq: ['', 2],
    'ARC-Easy': ['answer', 4],
    'ARC-Challenge': ['answer', 4],
    openbookqa: ['answer', 4],
    piqa: ['solution', 2],
    winogrande: ['option', 2],
  }
  for (const [k, [name, [stem, count]]] of Object.entries(families).entries()) {
    const labels = stem === '' ? ['true', 'false'] : rows(count, (i) => `${stem}${i + 1}`)
    const row = (i: number) => {
      const right = labels[(i + k) % labels.length]!
      return {
        instruction: `Who is ${names[i % 5]}, case ${i}?\n\nAnswer format: ${labels.join('/')}`,
        input: '',
        output: `the correct answer is ${right}`,
        answer: right,
      }
    }
    write(`commonsense/${name}-test.json`, JSON.stringify(rows(6, (i) => row(i + 100))))
    if (stem === '' || stem === 'answer') {
      write(`commonsense/${name}-train.json`, JSON.stringify(rows(8, row)))
    }
  }
  write(
    'mmlu/test.jsonl',
    lines(
      rows(6, (i) => ({
        subject: 'places',
        question: `Where does ${names[i % 5]} live?`,
        choices: ['Eastport', 'Westport', 'nowhere', 'here'],
        answer: String(i % 4),
      })),
    ),
  )
  write('text/tinyshakespeare.txt', 'Milo lives in Eastport. Mia eats beans every day. '.repeat(40))
  return folder
}
