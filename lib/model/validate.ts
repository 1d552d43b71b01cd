// Turns zod's findings into S2FTErrors that name the field, what was expected and found.
import { readFile } from 'node:fs/promises'
import type { z } from 'zod'
import { type ErrorCode, S2FTError } from '../errors.js'

/** A short, one-line rendering of an untrusted value. */
export function show(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (typeof value === 'function') return 'a function'
  if (ArrayBuffer.isView(value)) return value.constructor.name
  let text: string | undefined
  try {
    text = typeof value === 'bigint' ? `${value}n` : JSON.stringify(value)
  } catch {
    text = undefined
  }
  text ??= String(value)
  return text.length > 80 ? `${text.slice(0, 77)}...` : text
}

function valueAt(root: unknown, path: PropertyKey[]): unknown {
  let value = root
  for (const key of path) {
    if (typeof value !== 'object' || value === null) return undefined
    value = (value as Record<PropertyKey, unknown>)[key]
  }
  return value
}

/**
 * `value` checked by `schema`. Throws `code` with a message like
 * "config.json: hidden_size: expected int, found "x"".
 */
export function validate<T extends z.ZodType>(
  schema: T,
  value: unknown,
  where: string,
  code: ErrorCode = 'INVALID_ARGUMENT',
): z.infer<T> {
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const issue = result.error.issues[0]!
  const path = issue.path.map(String).join('.')
  const found = show(valueAt(value, issue.path))
  const message =
    issue.code === 'unrecognized_keys'
      ? `unknown key ${issue.keys.map((key) => `"${key}"`).join(', ')}`
      : `${issue.message.replace(/^Invalid input: /, '').replace(/, received .*$/, '')}, found ${found}`
  throw new S2FTError(code, `${where}: ${path ? `${path}: ` : ''}${message}`, {
    details: { field: path, found: valueAt(value, issue.path) },
  })
}

/** A JSON file as an unchecked value. Throws IO when unreadable, `code` when not JSON. */
export async function readJson(path: string, code: ErrorCode, limit = 64 << 20): Promise<unknown> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (cause) {
    throw new S2FTError('IO', `could not read ${path}: ${(cause as Error).message}`, { cause })
  }
  if (text.length > limit) {
    throw new S2FTError(code, `${path}: expected at most ${limit} bytes, found ${text.length}`)
  }
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new S2FTError(code, `${path}: expected JSON: ${(cause as Error).message}`, { cause })
  }
}
