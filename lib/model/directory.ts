// Directories that are complete or absent: written aside, flushed, then renamed.

import { randomBytes } from 'node:crypto'
import { open, readdir, rename, rm, rmdir } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { S2FTError } from '../errors.js'
import { makeDirectory } from './make-directory.js'

/** Flushes a file's or directory's data to the disk. */
export async function flush(path: string): Promise<void> {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } catch (error) {
    // Some file systems cannot flush a directory; a file's failure is real.
    if (!['EISDIR', 'EINVAL', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')) {
      throw error
    }
  } finally {
    await handle.close()
  }
}

/** Flushes every file of a flat directory, then the directory. */
export async function flushDirectory(directory: string): Promise<void> {
  for (const name of await readdir(directory)) await flush(join(directory, name))
  await flush(directory)
}

/** A fresh sibling of `target` that a later run recognises as left over: `.name.tmp-…`. */
export function temporaryName(target: string, kind: 'tmp' | 'trash' = 'tmp'): string {
  const unique = `${process.pid}-${randomBytes(4).toString('hex')}`
  return join(dirname(target), `.${basename(target)}.${kind}-${unique}`)
}

export interface PublishOptions {
  /**
   * The file whose presence makes the directory whole. In a directory that holds other files
   * it is removed first and written last, so that a reader finds a whole set or none.
   */
  marker: string
  /** Files of an earlier set, removed when the new set lacks them. */
  stale?: RegExp
}

async function list(directory: string): Promise<string[]> {
  try {
    return await readdir(directory)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    const message = `expected a directory at ${directory}: ${(error as Error).message}`
    throw new S2FTError('IO', message, { cause: error })
  }
}

/** True when `directory` is absent or has no entry. */
export async function isEmpty(directory: string): Promise<boolean> {
  return (await list(directory)).length === 0
}

async function mergeInto(target: string, source: string, options: PublishOptions): Promise<void> {
  const names = await readdir(source)
  await rm(join(target, options.marker), { force: true })
  await flush(target)
  for (const name of await readdir(target)) {
    if (options.stale?.test(name) && !names.includes(name)) await rm(join(target, name))
  }
  for (const name of names) {
    if (name !== options.marker) await rename(join(source, name), join(target, name))
  }
  await flush(target)
  await rename(join(source, options.marker), join(target, options.marker))
  await flush(target)
  await rmdir(source)
}

/**
 * Calls `write` with an empty temporary directory beside `target` and puts its files in place
 * when all of them are on the disk. After a failure or a kill `target` is as it was, or holds no
 * `marker`. Throws IO naming the target.
 */
export async function publishDirectory(
  target: string,
  options: PublishOptions,
  write: (directory: string) => Promise<void>,
): Promise<void> {
  const place = resolve(target)
  const temporary = temporaryName(place)
  try {
    await makeDirectory(temporary)
    await write(temporary)
    await flushDirectory(temporary)
    if (await isEmpty(place)) {
      // rename(2) replaces an empty directory; elsewhere it has to go first.
      await rmdir(place).catch(() => {})
      await rename(temporary, place)
    } else {
      await mergeInto(place, temporary, options)
    }
    await flush(dirname(place))
  } catch (cause) {
    await rm(temporary, { recursive: true, force: true }).catch(() => {})
    if (cause instanceof S2FTError) throw cause
    throw new S2FTError('IO', `could not write ${place}: ${(cause as Error).message}`, { cause })
  }
}
