// Writes a report's file whole or not at all.
import { rename, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { makeDirectory } from '../model/make-directory.js'

/** Replaces `path` when `text` is on disk. Throws IO. */
export async function writeWhole(path: string, text: string): Promise<void> {
  await makeDirectory(dirname(path))
  const temporary = `${path}.${process.pid}.tmp`
  await writeFile(temporary, text)
  await rename(temporary, path)
}
