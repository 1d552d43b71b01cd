// Reads files of benchmark results: JSON lines, gathered by the command that wrote them.
import { readFile } from 'node:fs/promises'
import { S2FTError } from '../errors.js'
import { type Line, type LineType, parseLine } from './lines.js'

/** What one command measured. */
export interface Run {
  /** Missing in output that was kept without its first line. */
  header?: Line<'run'>
  peers?: Line<'peers'>
  file: string
  lines: Line[]
}

/** A line that could not be read. */
export interface Problem {
  file: string
  /** From 1. */
  line: number
  message: string
}

export interface Results {
  runs: Run[]
  problems: Problem[]
}

/** The lines of a run that are of one type. */
export function linesOf<T extends LineType>(run: Run, type: T): Line<T>[] {
  return run.lines.filter((line): line is Line<T> => line.type === type)
}

/** Sorts the lines of one file; `file` is its name in problems. */
export function parseResults(text: string, file: string): Results {
  const runs: Run[] = []
  const problems: Problem[] = []
  text.split('\n').forEach((content, i) => {
    if (content.trim() === '') return
    let line: Line
    try {
      line = parseLine(content)
    } catch (error) {
      problems.push({ file, line: i + 1, message: (error as Error).message })
      return
    }
    if (line.type === 'run') {
      runs.push({ header: line, file, lines: [] })
      return
    }
    if (runs.length === 0) runs.push({ file, lines: [] })
    const current = runs.at(-1)!
    if (line.type === 'peers') current.peers = line
    else current.lines.push(line)
  })
  return { runs, problems }
}

/** All runs of all files. Throws IO naming a file that cannot be read. */
export async function readResults(files: readonly string[]): Promise<Results> {
  const results: Results = { runs: [], problems: [] }
  for (const file of files) {
    const text = await readFile(file, 'utf8').catch((cause: Error) => {
      throw new S2FTError('IO', `expected a file of results at ${file}: ${cause.message}`, {
        cause,
      })
    })
    const { runs, problems } = parseResults(text, file)
    results.runs.push(...runs)
    results.problems.push(...problems)
  }
  return results
}
