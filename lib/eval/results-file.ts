// The file of an evaluation's samples, one JSON line each in a fixed order, and beside it
// `<file>.run.json` with the settings it was made with. A broken-off evaluation continues from both.
import {
  closeSync,
  ftruncateSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { S2FTError } from '../errors.js'
import { show } from '../model/validate.js'

/** What decides the results of an evaluation, by name. */
export type RunSettings = Record<string, unknown>

type Line = Record<string, unknown>

export function settingsPath(file: string): string {
  return `${file}.run.json`
}

function failed(what: string, cause: unknown): S2FTError {
  return new S2FTError('IO', `${what}: ${(cause as Error).message}`, { cause })
}

/** A device such as /dev/stdout can neither be read again nor have a file beside it. */
function isOrdinary(file: string): boolean {
  return statSync(file, { throwIfNoEntry: false })?.isFile() ?? true
}

function parseObject(file: string, number: number, text: string): Line {
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Line
  } catch {
    // Told below, as any other content that is no sample.
  }
  throw new S2FTError(
    'INVALID_DATA',
    `${file}:${number}: expected a JSON object, found ${show(text.slice(0, 60))}`,
  )
}

/**
 * The lines of a results file; `ends` are the places in bytes behind them. A last line without
 * its line break was not written whole and is left out. Throws IO, INVALID_DATA naming the line.
 */
export function readResults(file: string): { lines: Line[]; ends: number[] } {
  let bytes: Buffer
  try {
    bytes = readFileSync(file)
  } catch (cause) {
    throw failed(`could not read ${file}`, cause)
  }
  const lines: Line[] = []
  const ends: number[] = []
  let start = 0
  for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10, start)) {
    lines.push(parseObject(file, lines.length + 1, bytes.toString('utf8', start, end)))
    start = end + 1
    ends.push(start)
  }
  return { lines, ends }
}

/** Throws INVALID_ARGUMENT naming the first setting that differs. */
function requireSameSettings(file: string, now: RunSettings): void {
  const path = settingsPath(file)
  let before: RunSettings
  try {
    before = parseObject(path, 1, readFileSync(path, 'utf8'))
  } catch (cause) {
    throw failed(`${file} cannot be resumed: its settings in ${path} are not readable`, cause)
  }
  for (const key of new Set([...Object.keys(before), ...Object.keys(now)])) {
    if (JSON.stringify(before[key]) === JSON.stringify(now[key])) continue
    throw new S2FTError(
      'INVALID_ARGUMENT',
      `${file} cannot be resumed: it was made with ${key} ${show(before[key])}, found ${show(now[key])}`,
    )
  }
}

export class ResultsFile {
  private constructor(
    readonly file: string,
    private readonly descriptor: number,
    private readonly earlier: Line[],
    private readonly ends: number[],
  ) {}

  /** Begins a file anew. Throws IO, also where it holds samples already, unless `overwrite`. */
  static create(file: string, settings: RunSettings, overwrite: boolean): ResultsFile {
    const size = isOrdinary(file) ? (statSync(file, { throwIfNoEntry: false })?.size ?? 0) : 0
    if (size > 0 && !overwrite) {
      throw new S2FTError(
        'IO',
        `${file} holds results already (${size} bytes): go on with --resume, replace them with ` +
          '--overwrite, or choose another --output',
      )
    }
    try {
      const descriptor = openSync(file, 'w')
      if (isOrdinary(file)) {
        const path = settingsPath(file)
        writeFileSync(`${path}.tmp`, `${JSON.stringify(settings, null, 2)}\n`)
        renameSync(`${path}.tmp`, path)
      }
      return new ResultsFile(file, descriptor, [], [])
    } catch (cause) {
      throw failed(`could not write ${file}`, cause)
    }
  }

  /**
   * Continues a file, or begins it when there is none. Throws IO, INVALID_DATA, and
   * INVALID_ARGUMENT when it was made with other settings.
   */
  static resume(file: string, settings: RunSettings): ResultsFile {
    if (!statSync(file, { throwIfNoEntry: false })) {
      return ResultsFile.create(file, settings, false)
    }
    if (!isOrdinary(file)) {
      throw new S2FTError('INVALID_ARGUMENT', `${file} cannot be resumed: expected a file`)
    }
    requireSameSettings(file, settings)
    const { lines, ends } = readResults(file)
    try {
      const results = new ResultsFile(file, openSync(file, 'a'), lines, ends)
      results.keep(lines.length)
      return results
    } catch (cause) {
      throw failed(`could not write ${file}`, cause)
    }
  }

  /** Lines of the evaluation that is continued. */
  get lines(): readonly Line[] {
    return this.earlier
  }

  /** Drops all but the first `count` earlier lines; call it before anything is appended. */
  keep(count: number): void {
    this.earlier.length = count
    ftruncateSync(this.descriptor, count === 0 ? 0 : this.ends[count - 1]!)
  }

  /** Throws IO. */
  append(line: object): void {
    try {
      const bytes = Buffer.from(`${JSON.stringify(line)}\n`)
      for (let at = 0; at < bytes.length; ) at += writeSync(this.descriptor, bytes, at)
    } catch (cause) {
      throw failed(`could not write ${this.file}`, cause)
    }
  }

  close(): void {
    closeSync(this.descriptor)
  }
}
