// Reads `-c config.yaml`: the same settings as the flags, checked by the same readers, every
// complaint with the line it is about.
import { readFileSync } from 'node:fs'
import { InvalidArgumentError } from 'commander'
import { isMap, isScalar, LineCounter, type Pair, parseDocument } from 'yaml'
import { z } from 'zod'
import { S2FTError } from '../errors.js'
import { nearest } from './suggest.js'
import { kebab, type Setting } from './train-settings.js'

const scalar = z.union([z.string(), z.number(), z.boolean()])
const value = z.union([scalar, z.array(scalar), z.record(z.string(), scalar)])

/** `learning-rate` and `learning_rate` → `learningRate`. */
function camel(key: string): string {
  return key.replace(/[-_]([a-zA-Z0-9])/g, (_, letter: string) => letter.toUpperCase())
}

/** A YAML value as the flag would spell it: lists and maps with commas. */
function asText(found: z.infer<typeof value>): string {
  if (Array.isArray(found)) return found.map(String).join(',')
  if (typeof found === 'object') {
    return Object.entries(found)
      .map(([key, item]) => `${key}=${item}`)
      .join(',')
  }
  return String(found)
}

function readSetting(setting: Setting, found: unknown): unknown {
  const parsed = value.safeParse(found)
  if (!parsed.success) throw new InvalidArgumentError('expected a value, a list or a map of values')
  if (typeof parsed.data === 'boolean') {
    if (!setting.read || setting.optionalValue) return parsed.data
    throw new InvalidArgumentError(`expected <${setting.value}>`)
  }
  if (!setting.read) throw new InvalidArgumentError('expected true or false')
  if (setting.repeatable && typeof parsed.data === 'object') {
    if (!Array.isArray(parsed.data)) throw new InvalidArgumentError('expected a list')
    return parsed.data.map(String)
  }
  if (setting.repeatable) return [String(parsed.data)]
  return setting.read(asText(parsed.data))
}

/**
 * Settings found in a YAML file, by camelCase key. Keys may be written in camelCase or
 * kebab-case; a null value counts as absent.
 *
 * @throws S2FTError IO when the file cannot be read; INVALID_CONFIG naming file, line and key
 */
export function readConfigFile(
  path: string,
  settings: readonly Setting[],
): Record<string, unknown> {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    throw new S2FTError('IO', `config file ${path}: ${(cause as Error).message}`, { cause })
  }
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false })
  const fail = (offset: number, message: string): never => {
    throw new S2FTError('INVALID_CONFIG', `${path}:${lines.linePos(offset).line}: ${message}`)
  }
  const broken = document.errors[0]
  if (broken) fail(broken.pos[0], broken.message)
  if (document.contents === null) return {}
  if (!isMap(document.contents)) return fail(0, 'expected settings as `key: value` lines')

  const byKey = new Map(settings.map((setting) => [setting.key, setting]))
  const names = (written: string) =>
    settings.map(({ key }) => (written.includes('-') ? kebab(key) : key))
  const result: Record<string, unknown> = {}
  for (const pair of document.contents.items as Pair[]) {
    const { key: node, value: item } = pair
    const offset = (node as { range?: [number, number, number] }).range?.[0] ?? 0
    const written = isScalar(node) ? String(node.value) : String(node)
    const setting = byKey.get(camel(written))
    if (!setting) {
      const meant = nearest(written, names(written))
      return fail(
        offset,
        `unknown setting '${written}'${meant ? `, did you mean '${meant}'?` : ''}`,
      )
    }
    if (setting.key in result) return fail(offset, `setting '${written}' is given twice`)
    const found = (item as { toJSON?(): unknown } | null)?.toJSON?.() ?? null
    if (found === null) continue
    try {
      result[setting.key] = readSetting(setting, found)
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) throw error
      return fail(offset, `setting '${written}': ${error.message}, found ${JSON.stringify(found)}`)
    }
  }
  return result
}
