// Turns data files into checked rows, and splits them.
import { S2FTError } from '../errors.js'
import { Random } from './random.js'
import { readValues } from './read.js'
import { type DataRow, parseRow } from './rows.js'

/** Rows that were left out, counted by reason. */
export interface Dropped {
  reason: string
  count: number
  /** Where the first of them is. */
  first: string
}

export interface SplitOptions {
  /** Which part to return. */
  part: 'train' | 'eval'
  /** Share of the rows (below 1) or number of rows (1 and more) that make the `eval` part. */
  evalSize: number
  /** Same seed, same split. Default 0. */
  seed?: number
}

export interface LoadOptions {
  /** Returns one part of a random, reproducible split. Applied before `limit`. */
  split?: SplitOptions
  /** At most this many rows, from the start. */
  limit?: number
  /** What a broken row does: an INVALID_DATA error (default), or a counted warning. */
  onBadRow?: 'error' | 'skip'
}

/** Checked rows in the order of the files, and what was left out. */
export interface Dataset {
  rows: DataRow[]
  files: string[]
  /** Rows read, the skipped ones included. */
  read: number
  dropped: Dropped[]
}

/** Counts what is left out, by reason, in order of appearance. */
export class DropCounter {
  private readonly byReason = new Map<string, Dropped>()

  constructor(earlier: readonly Dropped[] = []) {
    for (const entry of earlier) this.byReason.set(entry.reason, { ...entry })
  }

  add(reason: string, source: string): void {
    const entry = this.byReason.get(reason)
    if (entry) entry.count++
    else this.byReason.set(reason, { reason, count: 1, first: source })
  }

  list(): Dropped[] {
    return [...this.byReason.values()]
  }
}

/**
 * Reads one or more data files. The format is told by the content: `[` opens a JSON array, `{`
 * JSON lines; .txt and .md files are one text each. Rows may be of any shape of `DataRow`.
 *
 * Throws IO (cannot be read) and INVALID_DATA: a broken row (`onBadRow: 'error'`), named by file
 * and line or array index with what was expected and found, or a file without any row.
 */
export async function loadDataset(
  path: string | readonly string[],
  options: LoadOptions = {},
): Promise<Dataset> {
  const files = typeof path === 'string' ? [path] : [...path]
  if (files.length === 0) throw new S2FTError('INVALID_ARGUMENT', 'loadDataset: no file given')
  checkOptions(options)
  const rows: DataRow[] = []
  const dropped = new DropCounter()
  // Without a split the first rows are all that is needed of a file, however long.
  const enough = options.split
    ? Number.POSITIVE_INFINITY
    : (options.limit ?? Number.POSITIVE_INFINITY)
  let read = 0
  for (const file of files) {
    const before = read
    for await (const item of readValues(file)) {
      if (rows.length >= enough) break
      read++
      let problem: string
      let reason = 'broken row'
      if (item.kind === 'document') {
        rows.push({ kind: 'text', text: item.text, document: true, source: item.source })
        continue
      }
      if (item.kind === 'broken') {
        problem = item.problem
        reason = 'not JSON'
      } else {
        const row = parseRow(item.value, item.source)
        if (typeof row !== 'string') {
          rows.push(row)
          continue
        }
        problem = row
      }
      if (options.onBadRow !== 'skip') {
        throw new S2FTError('INVALID_DATA', `${item.source}: ${problem}`, {
          details: { source: item.source },
        })
      }
      dropped.add(reason, item.source)
    }
    if (rows.length >= enough) break
    if (read === before) {
      throw new S2FTError('INVALID_DATA', `${file}: expected rows, found an empty file`)
    }
  }
  const dataset: Dataset = { rows, files, read, dropped: dropped.list() }
  if (rows.length === 0) {
    const first = dataset.dropped[0]!
    throw new S2FTError(
      'INVALID_DATA',
      `${files.join(', ')}: none of ${read} rows can be used; the first, ${first.first}: ${first.reason}`,
    )
  }
  return select(dataset, options)
}

function checkOptions({ limit, split }: LoadOptions): void {
  if (limit !== undefined && !(Number.isInteger(limit) && limit > 0)) {
    throw new S2FTError('INVALID_ARGUMENT', `limit: expected a positive integer, found ${limit}`)
  }
  if (split && !(split.evalSize > 0 && Number.isFinite(split.evalSize))) {
    throw new S2FTError(
      'INVALID_ARGUMENT',
      `split.evalSize: expected a share below 1 or a number of rows, found ${split.evalSize}`,
    )
  }
}

function select(dataset: Dataset, options: LoadOptions): Dataset {
  let { rows } = dataset
  if (options.split) {
    const { part, evalSize, seed = 0 } = options.split
    const parts = splitDataset(dataset, evalSize, seed)
    rows = parts[part].rows
  }
  if (options.limit !== undefined) rows = rows.slice(0, options.limit)
  return { ...dataset, rows }
}

/**
 * Splits rows at random into a training and an evaluation part, each in file order.
 * `evalSize`: share below 1, or a number of rows. Throws INVALID_DATA when a part would be empty.
 */
export function splitDataset(
  dataset: Dataset,
  evalSize: number,
  seed = 0,
): { train: Dataset; eval: Dataset } {
  const count = dataset.rows.length
  const wanted = evalSize < 1 ? Math.max(1, Math.round(count * evalSize)) : Math.floor(evalSize)
  if (!(wanted >= 1 && wanted < count)) {
    throw new S2FTError(
      'INVALID_DATA',
      `split: ${wanted} evaluation rows of ${count} leave a part empty (${dataset.files.join(', ')})`,
    )
  }
  const chosen = new Set(new Random(seed, 0x5711).permutation(count).subarray(0, wanted))
  return {
    train: { ...dataset, rows: dataset.rows.filter((_, i) => !chosen.has(i)) },
    eval: { ...dataset, rows: dataset.rows.filter((_, i) => chosen.has(i)) },
  }
}
