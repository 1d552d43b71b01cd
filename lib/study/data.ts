// The study's rows as token ids: what trains, what decides the rate, what is measured. Every choice
// of rows is a seeded permutation of its file, the same for all cases.
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import {
  type DataRow,
  type EncodedChoice,
  type EncodedSample,
  encodeChoice,
  encodePrompt,
  encodeRow,
  type Gold,
  goldOf,
  loadDataset,
  Random,
  type SampleTokenizer,
  trainedTokens,
} from '../data/index.js'
import { S2FTError } from '../errors.js'
import type { StudySettings } from './settings.js'
import { farSets, type TestSet, type Track, testSets, tracks, trainingFiles } from './tracks.js'

/** The prompt of the paper's runs, for training and evaluation alike. */
const template = 'alpaca' as const
/** Stream of the permutations. */
const ROWS = 0x57d1

/** A question to answer by generation. */
export interface AnswerItem {
  tokens: Int32Array
  gold: Gold
}

/** The encoded items of one test set, by how they are scored. */
export interface TestItems {
  loss?: EncodedSample[]
  choice?: EncodedChoice[]
  answer?: AnswerItem[]
}

export interface StudyData {
  train: Record<Track, EncodedSample[]>
  validation: Record<Track, EncodedSample[]>
  /** By the set's name. */
  tests: Map<string, TestItems>
  /** Hash of all token ids and labels. */
  fingerprint: string
}

/** Takes `count` items at most from rows in random order; rows that give none do not count. */
class Rows {
  private readonly order: Int32Array
  private next = 0

  constructor(private readonly rows: readonly DataRow[]) {
    this.order = new Random(ROWS).permutation(rows.length)
  }

  take<T>(count: number, make: (row: DataRow) => T | undefined): T[] {
    const taken: T[] = []
    while (taken.length < count && this.next < this.order.length) {
      const made = make(this.rows[this.order[this.next++]!]!)
      if (made !== undefined) taken.push(made)
    }
    return taken
  }
}

class Encoder {
  constructor(
    private readonly tokenizer: SampleTokenizer,
    private readonly settings: StudySettings,
  ) {}

  private fits(tokens: Int32Array): boolean {
    return tokens.length <= this.settings.maxLength
  }

  /** undefined where a row is too long or has nothing to learn. */
  sample = (row: DataRow): EncodedSample | undefined => {
    const [sample] = encodeRow(row, this.tokenizer, { template })
    return sample && this.fits(sample.tokens) && trainedTokens(sample) > 0 ? sample : undefined
  }

  private choice = (row: DataRow): EncodedChoice | undefined => {
    const question = encodeChoice(row, this.tokenizer, { template })
    return question.options.every(({ tokens }) => this.fits(tokens)) ? question : undefined
  }

  private answer = (row: DataRow): AnswerItem | undefined => {
    const { tokens } = encodePrompt(row, this.tokenizer, { template })
    return this.fits(tokens) ? { tokens, gold: goldOf(row, 'math') } : undefined
  }

  /** Plain text in blocks of equal length. */
  private blocks(rows: readonly DataRow[]): EncodedSample[] {
    const { textLength, textBlocks } = this.settings
    const blocks = rows
      .flatMap((row) => encodeRow(row, this.tokenizer, { maxLength: textLength }))
      .filter(({ tokens }) => tokens.length === textLength)
    return [...new Random(ROWS).permutation(blocks.length)]
      .slice(0, textBlocks)
      .map((i) => blocks[i]!)
  }

  /** The items of a test set; how they are scored does not change which rows are taken. */
  items({ name, scored }: TestSet, rows: readonly DataRow[]): TestItems {
    const { items, answers, mmlu } = this.settings
    if (rows.every((row) => row.kind === 'text')) return { loss: this.blocks(rows) }
    const count = name === 'mmlu' ? mmlu : items
    const made: TestItems = {}
    if (scored.includes('loss')) made.loss = new Rows(rows).take(count, this.sample)
    if (scored.includes('choice')) made.choice = new Rows(rows).take(count, this.choice)
    if (scored.includes('answer')) made.answer = new Rows(rows).take(answers, this.answer)
    return made
  }
}

/** Every file that a study reads. */
export function studyFiles(folder: string): string[] {
  const tests = [...tracks.flatMap((track) => testSets[track]), ...farSets].map(({ file }) => file)
  const files = new Set([...tracks.flatMap((track) => trainingFiles[track]), ...tests])
  return [...files].map((file) => join(folder, file))
}

/**
 * Reads and encodes all that a study needs. Held-out rows, validation rows and training rows of a
 * file are apart. Throws IO and INVALID_DATA naming the file.
 */
export async function loadStudyData(
  folder: string,
  tokenizer: SampleTokenizer,
  settings: StudySettings,
): Promise<StudyData> {
  const encoder = new Encoder(tokenizer, settings)
  const rowsOf = async (files: readonly string[]) =>
    (await loadDataset(files.map((file) => join(folder, file)))).rows
  const tests = new Map<string, TestItems>()
  const train = {} as Record<Track, EncodedSample[]>
  const validation = {} as Record<Track, EncodedSample[]>
  for (const track of tracks) {
    const files = trainingFiles[track]
    const all = await rowsOf(files)
    const heldOut = testSets[track].find((set) => set.heldOut)
    const rows = new Rows(all)
    if (heldOut) {
      const kept = rows.take(Math.min(settings.items, Math.floor(all.length / 10)), (row) =>
        encoder.sample(row) ? row : undefined,
      )
      tests.set(heldOut.name, encoder.items(heldOut, kept))
    }
    validation[track] = rows.take(settings.validationRows, encoder.sample)
    train[track] = rows.take(settings.trainRows, encoder.sample)
    if (validation[track].length === 0 || train[track].length === 0) {
      throw new S2FTError(
        'INVALID_DATA',
        `${files.join(', ')}: expected rows to train on and to validate with, found ${all.length} ` +
          `of which too few fit in ${settings.maxLength} tokens`,
      )
    }
    for (const set of testSets[track]) {
      if (!set.heldOut) tests.set(set.name, encoder.items(set, await rowsOf([set.file])))
    }
  }
  for (const set of farSets) tests.set(set.name, encoder.items(set, await rowsOf([set.file])))
  for (const [name, items] of tests) {
    if (Object.values(items).some((list: readonly unknown[]) => list.length < 1)) {
      throw new S2FTError(
        'INVALID_DATA',
        `${name}: expected rows of at most ${settings.maxLength} tokens, found none`,
      )
    }
  }
  return { train, validation, tests, fingerprint: fingerprint(train, validation, tests) }
}

function fingerprint(
  train: StudyData['train'],
  validation: StudyData['validation'],
  tests: StudyData['tests'],
): string {
  const hash = createHash('sha256')
  const add = ({ tokens, labels }: { tokens: Int32Array; labels?: Int32Array }) => {
    hash.update(Int32Array.of(tokens.length))
    hash.update(tokens)
    if (labels) hash.update(labels)
  }
  for (const track of tracks) for (const part of [train, validation]) part[track].forEach(add)
  for (const { loss, choice, answer } of tests.values()) {
    loss?.forEach(add)
    choice?.forEach(({ options }) => {
      options.forEach(add)
    })
    answer?.forEach(add)
  }
  return hash.digest('hex')
}
