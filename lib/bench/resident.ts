// What a process holds in memory, by kind.
import { readFileSync } from 'node:fs'

/** Bytes; `own` and `mapped` are null where the system does not tell. */
export interface Resident {
  total: number
  /** Private, anonymous pages (RssAnon). */
  own: number | null
  /** Pages of files, which the system can drop and read again (RssFile, and RssShmem of tmpfs). */
  mapped: number | null
}

/** Of this process. */
export function residentMemory(path = '/proc/self/status'): Resident {
  let text = ''
  try {
    text = readFileSync(path, 'utf8')
  } catch {
    // Not Linux.
  }
  const field = (name: string) => {
    const found = new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)
    return found ? Number(found[1]) * 1024 : null
  }
  const file = field('RssFile')
  return {
    total: field('VmRSS') ?? process.memoryUsage.rss(),
    own: field('RssAnon'),
    mapped: file === null ? null : file + (field('RssShmem') ?? 0),
  }
}
