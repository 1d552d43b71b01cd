// Reads answers off generated text and compares them with the gold answer. Pure functions.

/** The label families of the commonsense sets, in the order they are tried. */
const FAMILIES = [
  /true|false/gi,
  /answer[1-5]/gi,
  /solution[12]/gi,
  /ending[1-4]/gi,
  /option[12]/gi,
] as const

/** Any label of any family. */
const ANY_LABEL = new RegExp(FAMILIES.map((family) => family.source).join('|'), 'i')

/** Largest difference of two numbers that count as equal (the paper's runs). */
export const NUMBER_TOLERANCE = 0.001

/**
 * The first label in a text, in lower case. With `labels` only those count, as in the paper's
 * runs, where every data set has its own pattern: a `true` in an `answer1..4` text is just a word.
 */
export function readChoice(text: string, labels?: readonly string[]): string | undefined {
  if (!labels || labels.length === 0) return text.match(ANY_LABEL)?.[0].toLowerCase()
  if (labels.every((label) => /^[A-Za-z]$/.test(label))) return readLetter(text, labels)
  const escaped = [...labels]
    .sort((a, b) => b.length - a.length)
    .map((label) => label.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&'))
  const found = text.match(new RegExp(escaped.join('|'), 'i'))?.[0].toLowerCase()
  return labels.find((label) => label.toLowerCase() === found)
}

/**
 * The letter of a lettered choice: one that follows "answer is" or "answer:", else a text that
 * opens with one ("B. because"), else the first in brackets, else the first that stands alone.
 * "A" alone in running text is an article, so a lone letter must not be followed by a small word.
 */
export function readLetter(text: string, labels: readonly string[]): string | undefined {
  const set = `[${labels.join('').toUpperCase()}]`
  const patterns = [
    new RegExp(`(?:[Aa]nswer|[Cc]hoice|[Oo]ption)(?:\\s+is)?\\s*:?\\s*[*("']*(${set})(?![A-Za-z])`),
    new RegExp(`^[\\s*("']*(${set})(?:[).:*,"']|\\s*$)`),
    new RegExp(`\\((${set})\\)`),
    new RegExp(`(?<![A-Za-z'])(${set})(?![A-Za-z'])(?!\\s+[a-z])`),
  ]
  for (const pattern of patterns) {
    const letter = text.match(pattern)?.[1]
    if (letter) return labels.find((label) => label.toUpperCase() === letter)
  }
  return undefined
}

const NUMBER = /(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?/g
/** A minus that touches the number (a dollar sign may stand between) and follows no operand. */
const SIGN = /(?<![\p{L}\d)])[-−]\$?$/u

/** Every number in a text: `1,234.5`, `$12.`, `-3`, `-$3`, `.5`; `7-3` is 7 and 3. */
export function readNumbers(text: string): number[] {
  return [...text.matchAll(NUMBER)].map((match) => {
    const negative = SIGN.test(text.slice(Math.max(0, match.index - 4), match.index))
    const value = Number(match[0].replaceAll(',', ''))
    return negative ? -value : value
  })
}

/** The last number in a text: what counts as the answer to a math question. */
export function readNumber(text: string): number | undefined {
  return readNumbers(text).at(-1)
}

/** The number a gold answer names: after `####` where there is one, else the last number. */
export function goldNumber(answer: string): number | undefined {
  const marked = answer.match(/####\s*([^\n]*)/)?.[1]
  return readNumber(marked ?? answer)
}

/** Whether the last number of a generated text is the gold number, within 0.001. */
export function isMathCorrect(text: string, gold: number): boolean {
  const value = readNumber(text)
  // The margin of a rounding error keeps a difference of exactly 0.001 equal.
  return value !== undefined && Math.abs(value - gold) <= NUMBER_TOLERANCE + 1e-12
}

/**
 * The labels a question can be answered with: those of its `Answer format: a/b/c`, else the
 * family that the gold answer belongs to. Undefined when neither says.
 */
export function choiceLabels(question: string, gold?: string): string[] | undefined {
  const format = question.match(/answer format:\s*([^\s]+(?:\/[^\s]+)+)\s*$/i)?.[1]
  if (format) return format.split('/')
  if (gold === undefined) return undefined
  const label = gold.trim().toLowerCase()
  if (label === 'true' || label === 'false') return ['true', 'false']
  const stem = label.match(/^(answer|solution|ending|option)\d$/)?.[1]
  if (!stem) return undefined
  const named = new Set(
    [...question.matchAll(new RegExp(`${stem}(\\d)`, 'gi'))].map(([, digit]) => `${stem}${digit}`),
  )
  named.add(label)
  return [...named].sort()
}

/**
 * The option with the highest log-probability. `lengths` (tokens of each option) turns sums into
 * means. Ties go to the first. Throws nothing; -1 for an empty list or without any finite value.
 */
export function pickOption(logProbs: readonly number[], lengths?: readonly number[]): number {
  let best = -1
  let bestScore = Number.NEGATIVE_INFINITY
  logProbs.forEach((value, i) => {
    const score = lengths ? value / Math.max(1, lengths[i] ?? 1) : value
    if (score > bestScore) {
      best = i
      bestScore = score
    }
  })
  return best
}
