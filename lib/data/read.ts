// Reads the values of a data file one by one: JSON lines (streamed), JSON array or plain text,
// told apart by the content.
import { isUtf8 } from 'node:buffer'
import { createReadStream } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import { S2FTError } from '../errors.js'

/** One value of a file; `source` is `file:line`, or `file[index]` in a JSON array. */
export type Item =
  | { kind: 'value'; value: unknown; source: string }
  | { kind: 'broken'; problem: string; source: string }
  | { kind: 'document'; text: string; source: string }

const MAX_WHOLE_BYTES = 512 * 1024 * 1024

function notUtf8(source: string): S2FTError {
  return new S2FTError('INVALID_DATA', `${source}: expected UTF-8 text, found other bytes`)
}

function unreadable(path: string, cause: unknown): S2FTError {
  const reason = (cause as Error).message
  return new S2FTError('IO', `data file ${path} cannot be read: ${reason}`, { cause })
}

async function sizeOf(path: string): Promise<number> {
  const info = await stat(path).catch((cause: unknown) => {
    throw unreadable(path, cause)
  })
  if (!info.isFile()) throw new S2FTError('IO', `data file ${path}: expected a file`)
  return info.size
}

/**
 * Lines split at \n alone: readline also splits at U+2028, which JSON strings may contain.
 * Yields the line number (from 1) with the text; blank lines are left out.
 */
async function* readLines(path: string): AsyncGenerator<[number, string]> {
  let pending: Buffer[] = []
  let pendingBytes = 0
  let number = 0
  const finish = (last: Buffer): string => {
    const bytes = pending.length === 0 ? last : Buffer.concat([...pending, last])
    pending = []
    pendingBytes = 0
    number++
    if (!isUtf8(bytes)) throw notUtf8(`${path}:${number}`)
    const line = bytes.toString('utf8')
    return (number === 1 ? line.replace(/^\uFEFF/, '') : line).trim()
  }
  const stream = createReadStream(path, { highWaterMark: 1 << 20 })
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      let start = 0
      for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
        const line = finish(chunk.subarray(start, end))
        if (line !== '') yield [number, line]
        start = end + 1
      }
      if (start === chunk.length) continue
      pending.push(chunk.subarray(start))
      pendingBytes += chunk.length - start
      if (pendingBytes > MAX_WHOLE_BYTES) {
        const where = `${path}:${number + 1}`
        throw new S2FTError('INVALID_DATA', `${where}: longer than ${MAX_WHOLE_BYTES} bytes`)
      }
    }
    const line = finish(Buffer.alloc(0))
    if (line !== '') yield [number, line]
  } catch (cause) {
    if (cause instanceof S2FTError) throw cause
    throw unreadable(path, cause)
  } finally {
    stream.destroy()
  }
}

async function readWhole(path: string): Promise<string> {
  const size = await sizeOf(path)
  if (size > MAX_WHOLE_BYTES) {
    throw new S2FTError(
      'INVALID_DATA',
      `${path}: ${size} bytes, and a JSON array or a text file may have ${MAX_WHOLE_BYTES}: use JSON lines`,
    )
  }
  const bytes = await readFile(path).catch((cause: unknown) => {
    throw unreadable(path, cause)
  })
  if (!isUtf8(bytes)) throw notUtf8(path)
  return bytes.toString('utf8').replace(/^\uFEFF/, '')
}

function parse(text: string): { value: unknown } | { problem: string } {
  try {
    return { value: JSON.parse(text) }
  } catch (error) {
    return { problem: (error as Error).message }
  }
}

function parseLine(path: string, number: number, line: string): Item {
  const source = `${path}:${number}`
  const result = parse(line)
  if ('value' in result) return { kind: 'value', value: result.value, source }
  const shown = JSON.stringify(line.length > 60 ? `${line.slice(0, 60)}…` : line)
  const problem = `expected one JSON object on the line, found ${shown} (${result.problem})`
  return { kind: 'broken', problem, source }
}

/**
 * The values of a data file. `[` opens a JSON array and `{` JSON lines, or a single JSON object
 * over several lines; a .txt or .md file that holds neither is one document.
 * Throws IO, and INVALID_DATA for an empty file, broken JSON outside JSON lines, or not UTF-8.
 */
export async function* readValues(path: string): AsyncGenerator<Item> {
  await sizeOf(path)
  let format: 'lines' | undefined
  for await (const [number, line] of readLines(path)) {
    if (format === undefined) {
      const first = parse(line)
      const isRow =
        'value' in first && !Array.isArray(first.value) && typeof first.value === 'object'
      if (!isRow && /\.(txt|text|md)$/i.test(path)) {
        yield { kind: 'document', text: await readWhole(path), source: `${path}:1` }
        return
      }
      if (line.startsWith('[') || line === '{') {
        yield* readJson(path)
        return
      }
      format = 'lines'
    }
    yield parseLine(path, number, line)
  }
  if (format === undefined) {
    throw new S2FTError('INVALID_DATA', `${path}: expected data, found an empty file`)
  }
}

async function* readJson(path: string): AsyncGenerator<Item> {
  const result = parse(await readWhole(path))
  if (!('value' in result)) {
    throw new S2FTError('INVALID_DATA', `${path}: expected JSON: ${result.problem}`)
  }
  const values = Array.isArray(result.value) ? result.value : [result.value]
  if (values.length === 0) {
    throw new S2FTError('INVALID_DATA', `${path}: expected rows, found an empty array`)
  }
  for (const [i, value] of values.entries()) {
    yield { kind: 'value', value, source: `${path}[${i}]` }
  }
}
