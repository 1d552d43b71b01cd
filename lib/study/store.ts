// The results file of a study: what is finished stays, what was broken off is dropped.
import { appendFileSync } from 'node:fs'
import { readFile, rename, writeFile } from 'node:fs/promises'
import { S2FTError } from '../errors.js'
import { show } from '../model/validate.js'
import {
  type AnyLine,
  type CaseLine,
  type FailureLine,
  parseStudyLine,
  type RunLine,
  type StudyLine,
} from './lines.js'

export class StudyStore {
  readonly cases = new Map<string, CaseLine>()
  /** Failures of cases that are not finished. */
  readonly failures = new Map<string, FailureLine>()
  readonly runs: RunLine[] = []
  study: StudyLine | undefined

  private constructor(private readonly file: string) {}

  /**
   * Reads `file`, where there is one, and drops a last line that was broken off. Throws IO,
   * CORRUPT_FILE naming the line.
   */
  static async open(file: string): Promise<StudyStore> {
    const store = new StudyStore(file)
    let text: string
    try {
      text = await readFile(file, 'utf8')
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return store
      throw new S2FTError('IO', `${file}: ${(cause as Error).message}`, { cause })
    }
    // Only the last line can have been broken off; it has no line break.
    const whole = text.slice(0, text.lastIndexOf('\n') + 1)
    for (const [i, content] of whole.split('\n').slice(0, -1).entries()) {
      const line = parseStudyLine(content)
      if (!line) {
        throw new S2FTError(
          'CORRUPT_FILE',
          `${file}:${i + 1}: expected a line of a study, found '${content.slice(0, 60)}'`,
        )
      }
      store.take(line)
    }
    if (whole !== text) {
      const temporary = `${file}.${process.pid}.tmp`
      await writeFile(temporary, whole)
      await rename(temporary, file)
    }
    return store
  }

  /** Keeps a line, on disk before anything else happens. Throws IO. */
  add(line: AnyLine): void {
    try {
      appendFileSync(this.file, `${JSON.stringify(line)}\n`)
    } catch (cause) {
      throw new S2FTError('IO', `${this.file}: ${(cause as Error).message}`, { cause })
    }
    this.take(line)
  }

  /** Throws INVALID_ARGUMENT naming what differs where the file holds another study. */
  require(wanted: StudyLine): void {
    if (!this.study) {
      this.add(wanted)
      return
    }
    const at = difference(this.study, wanted)
    if (at === undefined) return
    const [field, expected, found] = at
    throw new S2FTError(
      'INVALID_ARGUMENT',
      `${this.file} holds a study with ${field} ${show(expected)}, found ${show(found)}: ` +
        'choose another --output for it',
    )
  }

  private take(line: AnyLine): void {
    if (line.type === 'study') this.study = line
    else if (line.type === 'run') this.runs.push(line)
    else if (line.type === 'failure') this.failures.set(line.key, line)
    else {
      this.cases.set(line.key, line)
      this.failures.delete(line.key)
    }
  }
}

/** The first field in which two values differ, with both; the model's path may. */
function difference(a: unknown, b: unknown, field = ''): [string, unknown, unknown] | undefined {
  if (field === 'model') return undefined
  const isObject = (value: unknown) => typeof value === 'object' && value !== null
  if (!isObject(a) || !isObject(b)) return Object.is(a, b) ? undefined : [field, a, b]
  const first = a as Record<string, unknown>
  const second = b as Record<string, unknown>
  for (const key of new Set([...Object.keys(first), ...Object.keys(second)])) {
    const found = difference(first[key], second[key], field === '' ? key : `${field}.${key}`)
    if (found) return found
  }
  return undefined
}
