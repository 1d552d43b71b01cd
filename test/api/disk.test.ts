// What stays on the disk when writing fails at any point: a whole directory or none.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { publishDirectory } from '../../lib/model/directory.js'
import { makeDirectory } from '../../lib/model/make-directory.js'
import { listCheckpoints, removeLeftovers, writeCheckpoint } from '../../lib/trainer/checkpoint.js'
import { availableMemory } from '../../lib/trainer/memory.js'
import { keepLines } from '../../lib/trainer/metrics.js'
import { temporaryDirectory } from '../support/directories.js'
import { rejection } from '../support/rejection.js'

const full = () => Promise.reject(Object.assign(new Error('no space left'), { code: 'ENOSPC' }))
const complete = async (folder: string) => {
  await writeFile(join(folder, 'optimizer.safetensors'), 'moments')
  await writeFile(join(folder, 'trainer_state.json'), '{}')
}

describe('checkpoints', () => {
  test('a failure while writing leaves the earlier ones and nothing else', async () => {
    const output = temporaryDirectory()
    await writeCheckpoint(output, 1, 1, complete)
    const error = await rejection(() =>
      writeCheckpoint(output, 2, 1, async (folder) => {
        await writeFile(join(folder, 'optimizer.safetensors'), 'mom')
        return full()
      }),
    )
    expect(error.code).toBe('IO')
    expect(error.message).toMatch(/checkpoint-2.*no space left/)
    expect(readdirSync(output)).toEqual(['checkpoint-1'])
  })

  test('the oldest goes only after the newest is there', async () => {
    const output = temporaryDirectory()
    await writeCheckpoint(output, 9, 2, complete)
    await writeCheckpoint(output, 10, 2, complete)
    await writeCheckpoint(output, 100, 2, async (folder) => {
      expect((await listCheckpoints(output)).map(({ step }) => step)).toEqual([9, 10])
      await complete(folder)
    })
    expect((await listCheckpoints(output)).map(({ step }) => step)).toEqual([10, 100])
  })

  test('a folder without its state does not count, leftovers are removed', async () => {
    const output = temporaryDirectory()
    mkdirSync(join(output, 'checkpoint-5'))
    for (const name of [
      '.checkpoint-7.tmp-1-ab',
      '.checkpoint-3.trash-1-ab',
      '.metrics.jsonl.tmp-1-a',
    ]) {
      mkdirSync(join(output, name))
      writeFileSync(join(output, name, 'part'), '')
    }
    writeFileSync(join(output, 'notes.txt'), '')
    expect(await listCheckpoints(output)).toEqual([])
    await removeLeftovers(output)
    expect(readdirSync(output).sort()).toEqual(['checkpoint-5', 'notes.txt'])
  })

  test('writing one again replaces it', async () => {
    const output = temporaryDirectory()
    await writeCheckpoint(output, 4, 0, complete)
    const path = await writeCheckpoint(output, 4, 0, async (folder) => {
      await writeFile(join(folder, 'trainer_state.json'), '{"second":1}')
    })
    expect(readFileSync(join(path, 'trainer_state.json'), 'utf8')).toBe('{"second":1}')
    expect(readdirSync(output)).toEqual(['checkpoint-4'])
  })
})

describe('directories', () => {
  const options = { marker: 'config.json', stale: /^part-/ }
  const write =
    (...names: string[]) =>
    async (folder: string) => {
      for (const name of ['config.json', ...names]) await writeFile(join(folder, name), 'new')
    }

  test('absent, empty, and shared with other files', async () => {
    const parent = temporaryDirectory()
    const target = join(parent, 'out')
    await publishDirectory(target, options, write('part-1', 'part-2'))
    expect(readdirSync(target).sort()).toEqual(['config.json', 'part-1', 'part-2'])
    writeFileSync(join(target, 'notes.txt'), 'mine')
    await publishDirectory(target, options, write('part-1'))
    expect(readdirSync(target).sort()).toEqual(['config.json', 'notes.txt', 'part-1'])
    expect(readdirSync(parent)).toEqual(['out'])
  })

  test('a failure leaves the earlier content whole', async () => {
    const parent = temporaryDirectory()
    const target = join(parent, 'out')
    await publishDirectory(target, options, write('part-1'))
    writeFileSync(join(target, 'part-1'), 'old')
    await rejection(() =>
      publishDirectory(target, options, async (folder) => {
        await write('part-1')(folder)
        return full()
      }),
    )
    expect(readFileSync(join(target, 'part-1'), 'utf8')).toBe('old')
    expect(existsSync(join(target, 'config.json'))).toBe(true)
    expect(readdirSync(parent)).toEqual(['out'])
  })

  test('a file in the way is named', async () => {
    const target = join(temporaryDirectory(), 'out')
    writeFileSync(target, '')
    const error = await rejection(() => publishDirectory(target, options, write()))
    expect(error.code).toBe('IO')
    expect(error.message).toContain(target)
    rmSync(target)
  })
})

test('metrics keep whole lines up to a step', () => {
  const line = (step: number) => `${JSON.stringify({ type: 'step', step })}\n`
  expect(keepLines(line(1) + line(2) + line(3), 2)).toBe(line(1) + line(2))
  expect(keepLines(`${line(1)}not json\n${line(2)}{"type":"st`, 9)).toBe(line(1) + line(2))
  expect(keepLines('', 5)).toBe('')
})

describe('available memory', () => {
  function system(files: Record<string, string>): string {
    const root = temporaryDirectory()
    for (const [name, text] of Object.entries(files)) {
      mkdirSync(join(root, name, '..'), { recursive: true })
      writeFileSync(join(root, name), text)
    }
    return root
  }
  const measure = (files: Record<string, string>) => {
    const root = system(files)
    const before = process.memoryUsage.rss()
    const found = availableMemory(join(root, 'proc'), join(root, 'cgroup'))
    return { found, own: before }
  }
  // The process itself grows and shrinks a little between two readings.
  const slack = 64e6

  test.each<[string, Record<string, string>, number]>([
    ['the system', {}, 8_000_000 * 1024],
    [
      'a group of version 2, less what can be reclaimed',
      {
        'proc/self/cgroup': '0::/job\n',
        'cgroup/job/memory.max': '2000000000\n',
        'cgroup/job/memory.current': '1500000000\n',
        'cgroup/job/memory.stat': 'anon 1\ninactive_file 300000000\n',
      },
      800_000_000,
    ],
    [
      'the parent of a group without a limit',
      {
        'proc/self/cgroup': '0::/top/job\n',
        'cgroup/top/job/memory.max': 'max\n',
        'cgroup/top/job/memory.current': '5\n',
        'cgroup/top/memory.max': '1000000000\n',
        'cgroup/top/memory.current': '400000000\n',
      },
      600_000_000,
    ],
    [
      'a group of version 1',
      {
        'proc/self/cgroup': '7:cpu:/\n5:memory:/job\n',
        'cgroup/memory/job/memory.limit_in_bytes': '900000000\n',
        'cgroup/memory/job/memory.usage_in_bytes': '200000000\n',
      },
      700_000_000,
    ],
  ])('%s', (_, files, left) => {
    const { found, own } = measure({ 'proc/meminfo': 'MemAvailable:  8000000 kB\n', ...files })
    expect(Math.abs(found - own - left)).toBeLessThan(slack)
  })
})

test.skipIf(process.platform !== 'linux')(
  'a folder that the file system refuses is an error, not an endless attempt',
  async () => {
    await expect(makeDirectory('/proc/s2ft-nowhere/below')).rejects.toMatchObject({
      code: 'IO',
      message: expect.stringContaining('/proc/s2ft-nowhere'),
    })
  },
)
