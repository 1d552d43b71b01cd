// Checkpoint folders: complete or absent, whatever moment the process is killed at.

import { existsSync } from 'node:fs'
import { readdir, rename, rm } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { S2FTError } from '../errors.js'
import { flush, flushDirectory, temporaryName } from '../model/directory.js'
import { makeDirectory } from '../model/make-directory.js'

export const STATE_FILE = 'trainer_state.json'
export const OPTIMIZER_FILE = 'optimizer.safetensors'

/** Folders that only an interrupted write or removal leaves behind. */
const LEFTOVER = /^\.+(checkpoint-\d+|metrics\.jsonl)\.(tmp|trash)-/

export function checkpointPath(outputDir: string, step: number): string {
  return join(outputDir, `checkpoint-${step}`)
}

/** Complete checkpoints of a run, oldest step first. */
export async function listCheckpoints(
  outputDir: string,
): Promise<{ step: number; path: string }[]> {
  const names = await readdir(outputDir).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [] as string[]
    throw new S2FTError('IO', `could not read ${outputDir}: ${error.message}`, { cause: error })
  })
  return names
    .flatMap((name) => {
      const match = /^checkpoint-(\d+)$/.exec(name)
      return match ? [{ step: Number(match[1]), path: join(outputDir, name) }] : []
    })
    .filter(({ path }) => existsSync(join(path, STATE_FILE)))
    .sort((a, b) => a.step - b.step)
}

/** True unless a running process other than this one has the pid in a temporary name. */
function isStale(name: string): boolean {
  const pid = Number(/-(\d+)-[0-9a-f]+$/.exec(name)?.[1])
  if (!pid || pid === process.pid) return true
  try {
    process.kill(pid, 0)
    return false
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH'
  }
}

/** Removes what earlier, killed runs left half-written in and beside `outputDir`. */
export async function removeLeftovers(outputDir: string): Promise<void> {
  const place = resolve(outputDir)
  for (const name of await readdir(place).catch(() => [] as string[])) {
    if (LEFTOVER.test(name)) await rm(join(place, name), { recursive: true, force: true })
  }
  // The final adapter or model is written aside, next to the output directory.
  const beside = `.${basename(place)}.tmp-`
  for (const name of await readdir(dirname(place)).catch(() => [] as string[])) {
    if (name.startsWith(beside) && isStale(name)) {
      await rm(join(dirname(place), name), { recursive: true, force: true })
    }
  }
}

/** Moves a checkpoint out of sight in one step, then deletes it. */
export async function removeCheckpoint(path: string): Promise<void> {
  const trash = temporaryName(path, 'trash')
  await rename(path, trash)
  await flush(dirname(path))
  await rm(trash, { recursive: true, force: true })
}

/**
 * Calls `write` with a temporary folder and makes it `checkpoint-<step>` once every file is on
 * the disk. Then, and only then, removes the oldest checkpoints beyond `limit` (0: none).
 * Returns the checkpoint's path. Throws IO; nothing half-written stays.
 */
export async function writeCheckpoint(
  outputDir: string,
  step: number,
  limit: number,
  write: (directory: string) => Promise<void>,
): Promise<string> {
  const path = checkpointPath(outputDir, step)
  const temporary = temporaryName(path)
  try {
    await makeDirectory(temporary)
    await write(temporary)
    await flushDirectory(temporary)
    if (existsSync(path)) await removeCheckpoint(path)
    await rename(temporary, path)
    await flush(outputDir)
    if (limit > 0) {
      const others = (await listCheckpoints(outputDir)).filter((found) => found.path !== path)
      for (const { path: old } of others.slice(0, Math.max(0, others.length + 1 - limit))) {
        await removeCheckpoint(old)
      }
    }
    return path
  } catch (cause) {
    await rm(temporary, { recursive: true, force: true }).catch(() => {})
    if (cause instanceof S2FTError) throw cause
    throw new S2FTError('IO', `could not write ${path}: ${(cause as Error).message}`, { cause })
  }
}
