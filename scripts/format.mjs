// Formats the sources: clang-format over cpp/ and cuda/, biome over the rest.
//   node scripts/format.mjs [--check]     --check changes nothing and fails on differences
import { join } from 'node:path'
import { fail, installed, root, run } from './support/process.mjs'
import { listFiles } from './support/stamp.mjs'

const check = process.argv.includes('--check')
const sources = listFiles(['cpp', 'cuda'], (path) => /\.(h|cpp|cu|cuh)$/.test(path))

if (!installed('clang-format')) {
  fail(
    'clang-format was not found:\n' +
      '  1. Debian/Ubuntu: apt-get install clang-format\n' +
      '  2. anywhere with Python: pip install clang-format==14.0.6',
  )
}
const biome = join(root, 'node_modules/@biomejs/biome/bin/biome')
const failures = [
  run('clang-format', [...(check ? ['--dry-run', '--Werror'] : ['-i']), ...sources]),
  run(process.execPath, [biome, 'check', ...(check ? [] : ['--write'])]),
].filter((status) => status !== 0)
process.exitCode = failures.length > 0 ? 1 : 0
