// Readers of option values: text in, checked value out, or a usage error.
import { InvalidArgumentError } from 'commander'

interface Range {
  min?: number
  max?: number
  /** The lower end itself is not allowed. */
  above?: number
}

function check(value: number, text: string, what: string, range: Range = {}): number {
  const { min, max, above } = range
  if (
    !Number.isFinite(value) ||
    text.trim() === '' ||
    (min !== undefined && value < min) ||
    (above !== undefined && value <= above) ||
    (max !== undefined && value > max)
  ) {
    const bounds = [
      min === undefined ? '' : ` from ${min}`,
      above === undefined ? '' : ` above ${above}`,
      max === undefined ? '' : ` up to ${max}`,
    ].join('')
    throw new InvalidArgumentError(`expected ${what}${bounds}`)
  }
  return value
}

/** A reader of finite numbers within a range. */
export function number(range: Range = {}): (text: string) => number {
  return (text) => check(Number(text), text, 'a number', range)
}

/** A reader of whole numbers within a range. */
export function integer(range: Range = {}): (text: string) => number {
  return (text) => {
    const value = /^[+-]?\d+$/.test(text.trim()) ? Number(text) : Number.NaN
    return check(Number.isSafeInteger(value) ? value : Number.NaN, text, 'a whole number', range)
  }
}

/** A reader of whole numbers within a range, separated by commas, each kept once. */
export function integers(range: Range = {}): (text: string) => number[] {
  const read = integer(range)
  return (text) => [...new Set(list(text).map(read))]
}

/** A reader of one word out of a list. */
export function oneOf<T extends string>(...choices: T[]): (text: string) => T {
  return (text) => {
    if ((choices as string[]).includes(text)) return text as T
    throw new InvalidArgumentError(`expected ${choices.join(', ')}`)
  }
}

/** `a,b,c` as a list of words. */
export function list(text: string): string[] {
  const words = text.split(',').map((word) => word.trim())
  if (words.some((word) => word === '')) {
    throw new InvalidArgumentError('expected names separated by commas')
  }
  return words
}

/** A reader of words out of a list, separated by commas, each kept once. */
export function listOf<T extends string>(...choices: T[]): (text: string) => T[] {
  const read = oneOf(...choices)
  return (text) => [...new Set(list(text).map(read))]
}

/** Gathers an option that may be given several times. */
export function collect(text: string, before: string[] | undefined): string[] {
  return [...(before ?? []), text]
}

/** A reader of `down_proj=16,q_proj=4`: a number for each name. */
export function numbersByName(
  read: (text: string) => number,
): (text: string) => Record<string, number> {
  return (text) => {
    const result: Record<string, number> = {}
    for (const part of list(text)) {
      const [name = '', value = '', ...rest] = part.split('=').map((word) => word.trim())
      if (!/^[\w.]+$/.test(name) || rest.length > 0 || name in result) {
        throw new InvalidArgumentError(`expected <name>=<number>, each name once, found '${part}'`)
      }
      result[name] = read(value)
    }
    return result
  }
}

/** `down=0.03,o=0.1` as shares by module kind, each above 0 and up to 1. */
export function ratios(text: string): Record<string, number> {
  const kinds = ['q', 'k', 'v', 'o', 'gate', 'up', 'down']
  const result: Record<string, number> = {}
  for (const part of text.split(',')) {
    const [kind = '', share = '', ...rest] = part.split('=').map((word) => word.trim())
    const value = Number(share)
    if (!kinds.includes(kind) || rest.length > 0 || share === '' || !(value > 0 && value <= 1)) {
      throw new InvalidArgumentError(
        `expected <module>=<share> with a module of ${kinds.join(', ')} and a share above 0 up to 1, found '${part.trim()}'`,
      )
    }
    if (kind in result)
      throw new InvalidArgumentError(`expected each module once, found '${kind}' twice`)
    result[kind] = value
  }
  return result
}

/** `8GB`, `500 MB`, `1.5GiB` or a number of bytes. */
export function byteCount(text: string): number {
  const found = /^(\d+(?:\.\d+)?)\s*(?:([kMGT])(i?))?B?$/i.exec(text.trim())
  if (!found) throw new InvalidArgumentError('expected a size, e.g. 8GB')
  const power = found[2] ? ' kmgt'.indexOf(found[2].toLowerCase()) : 0
  const size = Number(found[1]) * (found[3] ? 1024 : 1000) ** power
  return check(Math.floor(size), text, 'a size', { min: 1, max: Number.MAX_SAFE_INTEGER })
}

/** An adapter's directory and what its change is multiplied by. */
export interface AdapterChoice {
  directory: string
  weight: number
}

/**
 * Gathers `DIR` and `DIR=WEIGHT`. A directory whose name ends in = and a number is meant by adding
 * its weight.
 */
export function adapters(text: string, before: AdapterChoice[] | undefined): AdapterChoice[] {
  const found = /^(.+)=([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)$/i.exec(text)
  const [directory, weight] = found ? [found[1]!, Number(found[2])] : [text, 1]
  if (directory === '') throw new InvalidArgumentError('expected a directory')
  check(weight, String(weight), 'a weight')
  if (before?.some((other) => other.directory === directory)) {
    throw new InvalidArgumentError(`expected each adapter once, found ${directory} twice`)
  }
  return [...(before ?? []), { directory, weight }]
}

/** As the option was given. */
export function adapterText({ directory, weight }: AdapterChoice): string {
  return weight === 1 ? directory : `${directory}=${weight}`
}
