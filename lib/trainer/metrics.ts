// metrics.jsonl: one line an event, appended; a resumed run cuts what came after its checkpoint.

import { type FileHandle, open, readFile, rename, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { flush, temporaryName } from '../model/directory.js'
import { makeDirectory } from '../model/make-directory.js'

export const METRICS_FILE = 'metrics.jsonl'

/** Whole lines whose step is at most `step`; a torn last line of a killed run goes. */
export function keepLines(text: string, step: number): string {
  const lines = text.split('\n').slice(0, -1)
  const kept = lines.filter((line) => {
    try {
      return (JSON.parse(line) as { step?: number }).step! <= step
    } catch {
      return false
    }
  })
  return kept.map((line) => `${line}\n`).join('')
}

export class MetricsLog {
  private constructor(private readonly file: FileHandle) {}

  /** Opens the log of `outputDir`, keeping lines up to `step`; -1 starts anew. */
  static async open(outputDir: string, step: number): Promise<MetricsLog> {
    await makeDirectory(outputDir)
    const path = join(outputDir, METRICS_FILE)
    const before = step < 0 ? '' : await readFile(path, 'utf8').catch(() => '')
    const temporary = temporaryName(path)
    await writeFile(temporary, keepLines(before, step))
    await flush(temporary)
    await rename(temporary, path)
    await flush(dirname(path))
    return new MetricsLog(await open(path, 'a'))
  }

  async write(event: object): Promise<void> {
    await this.file.appendFile(`${JSON.stringify(event)}\n`)
  }

  /** Lines so far are on the disk: called before a checkpoint that stands behind them. */
  flush(): Promise<void> {
    return this.file.sync()
  }

  close(): Promise<void> {
    return this.file.close()
  }
}
