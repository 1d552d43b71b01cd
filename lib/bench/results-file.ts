// The results file of `s2ft bench all` between two calls: what is finished stays.
import { readFile, rename, writeFile } from 'node:fs/promises'
import { S2FTError } from '../errors.js'
import { parseLine } from './lines.js'

/** The lines of commands that went to their end, and these commands. */
export function finishedRuns(text: string): { text: string; commands: Set<string> } {
  const commands = new Set<string>()
  let kept = ''
  let current = ''
  for (const content of text.split('\n')) {
    const type = typeOf(content)
    if (type === 'run') current = ''
    current += `${content}\n`
    if (type !== 'end') continue
    kept += current
    current = ''
    commands.add((JSON.parse(content) as { command: string }).command)
  }
  return { text: kept, commands }
}

function typeOf(content: string): string | undefined {
  try {
    return parseLine(content).type
  } catch {
    return undefined
  }
}

/** Drops from `file` what a command that was broken off left; returns the finished commands. */
export async function keepFinished(file: string): Promise<Set<string>> {
  let before: string
  try {
    before = await readFile(file, 'utf8')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return new Set()
    throw new S2FTError('IO', `${file}: ${(cause as Error).message}`, { cause })
  }
  const { text, commands } = finishedRuns(before)
  if (text !== before) {
    const temporary = `${file}.${process.pid}.tmp`
    await writeFile(temporary, text)
    await rename(temporary, file)
  }
  return commands
}
