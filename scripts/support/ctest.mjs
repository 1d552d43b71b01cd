// Runs the C++ tests of a build folder and counts their cases.
import { availableParallelism } from 'node:os'
import { capture } from './process.mjs'
import { tallyCtest } from './tally.mjs'

/** Shows one line a test executable, and everything about one that fails. */
export function runCtest(directory, { env = {}, timeout = 600 } = {}) {
  const args = ['--test-dir', directory, '-V', '--no-tests=error', '--timeout', String(timeout)]
  const { status, stdout, stderr } = capture('ctest', args, { env: { ...process.env, ...env } })
  const tally = tallyCtest(stdout)
  if (status !== 0 || tally.failed > 0) {
    process.stdout.write(stdout + stderr)
    tally.failed = Math.max(tally.failed, 1)
  } else {
    for (const [line] of stdout.matchAll(/^\s*\d+\/\d+ Test .*$/gm)) console.log(line.trim())
  }
  for (const [, line] of stdout.matchAll(/^\d+: (skip .*)$/gm)) console.log(line)
  return tally
}

/** How many compilers may run at once. */
export const jobs = String(availableParallelism())
