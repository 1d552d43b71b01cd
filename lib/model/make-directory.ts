// Creates folders level by level.
import { mkdir, stat } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { S2FTError } from '../errors.js'

/**
 * Makes `path` and the folders above it that are missing. Unlike mkdir's own recursive mode,
 * which never returns where a file system refuses new folders with ENOENT (/proc), it asks for
 * each level once. Throws IO naming the folder.
 */
export async function makeDirectory(path: string): Promise<void> {
  const place = resolve(path)
  const found = await stat(place).catch(() => undefined)
  if (found?.isDirectory()) return
  const above = dirname(place)
  if (above !== place) await makeDirectory(above)
  await mkdir(place).catch(async (error: NodeJS.ErrnoException) => {
    // Somebody else may have made it meanwhile.
    const now = await stat(place).catch(() => undefined)
    if (error.code === 'EEXIST' && now?.isDirectory()) return
    throw new S2FTError('IO', `could not make the folder ${place}: ${error.message}`, {
      cause: error,
    })
  })
}
