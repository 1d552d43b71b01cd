// How much memory this process may hold, by the system and by its control groups.
import { readFileSync } from 'node:fs'
import { freemem } from 'node:os'
import { dirname, join } from 'node:path'

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}

function field(text: string | undefined, name: string): number | undefined {
  const found = new RegExp(`^${name}:?\\s+(\\d+)`, 'm').exec(text ?? '')
  return found ? Number(found[1]) : undefined
}

/** Bytes left in one group: its limit less what is used and cannot be reclaimed. */
function left(folder: string, names: { limit: string; used: string; cache: string }) {
  const limit = Number(read(join(folder, names.limit)))
  const used = Number(read(join(folder, names.used)))
  if (!Number.isFinite(limit) || !Number.isFinite(used) || limit <= 0) return undefined
  const cache = field(read(join(folder, 'memory.stat')), names.cache) ?? 0
  return Math.max(0, limit - used + cache)
}

const V2 = { limit: 'memory.max', used: 'memory.current', cache: 'inactive_file' }
const V1 = {
  limit: 'memory.limit_in_bytes',
  used: 'memory.usage_in_bytes',
  cache: 'total_inactive_file',
}

function groupLimits(root: string, proc: string): number[] {
  const limits: number[] = []
  for (const line of (read(join(proc, 'self/cgroup')) ?? '').split('\n')) {
    const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? []
    if (path === undefined) continue
    const old = controllers!.split(',').includes('memory')
    if (controllers !== '' && !old) continue
    const base = old ? join(root, 'memory') : root
    // A parent's limit binds its children; inside a container only the top may be visible.
    for (let folder = join(base, path); ; folder = dirname(folder)) {
      const bytes = left(folder, old ? V1 : V2)
      if (bytes !== undefined) limits.push(bytes)
      if (folder === base || !folder.startsWith(base)) break
    }
  }
  return limits
}

/**
 * Bytes that this process may hold in all: what it holds now and what the system (MemAvailable)
 * and its control groups (v1 and v2) still give, divided between so many processes of a job. The
 * folders are parameters for the tests.
 */
export function availableMemory(proc = '/proc', groups = '/sys/fs/cgroup', processes = 1): number {
  const total = field(read(join(proc, 'meminfo')), 'MemAvailable')
  const free = total === undefined ? freemem() : total * 1024
  return process.memoryUsage.rss() + Math.min(free, ...groupLimits(groups, proc)) / processes
}
