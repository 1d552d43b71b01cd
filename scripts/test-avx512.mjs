// Builds the tests of the kernels with AVX-512 in plain code (cpp/test/emulated_avx512.h)
// and runs them, where the processor has no AVX-512 of its own.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { jobs } from './support/ctest.mjs'
import { capture, mustRun, root } from './support/process.mjs'
import { add, emptyTally, parseTallyLine, tallyLine } from './support/tally.mjs'

/** Why there is nothing to emulate here, or undefined. */
function noNeed() {
  if (process.arch !== 'x64') return 'only x86-64 has these kernels'
  const facts = existsSync('/proc/cpuinfo') ? readFileSync('/proc/cpuinfo', 'utf8') : ''
  const flags = new Set(/^flags\s*:(.*)$/m.exec(facts)?.[1]?.trim().split(/\s+/))
  if (flags.has('avx512_bf16')) return 'the processor has it, so the other C++ tests use it'
  const lacking = ['avx2', 'fma', 'f16c'].filter((flag) => !flags.has(flag))
  if (lacking.length > 0) return `the processor lacks ${lacking.join(', ')}`
}

const reason = noNeed()
if (reason) {
  console.log(`skip AVX-512 in plain code: ${reason}`)
  console.log(tallyLine({ ...emptyTally(), skipped: 1 }))
  process.exit(0)
}
mustRun(process.execPath, ['scripts/setup.mjs', '--tests'])
const build = ['--build', 'build', '--parallel', jobs, '--target', 'avx512_tests']
mustRun('nice', ['-n', '10', 'cmake', ...build])

const tests = readdirSync(join(root, 'build')).filter((name) => name.endsWith('_test_avx512'))
// Threads that wait for each other asleep: the emulation is slow, and other work goes on.
const env = { ...process.env, OMP_WAIT_POLICY: 'passive' }
const total = emptyTally()
for (const name of tests) {
  const begun = Date.now()
  const { status, stdout, stderr } = capture(join(root, 'build', name), [], {
    env,
    timeout: 600_000,
  })
  const tally = parseTallyLine(stdout) ?? emptyTally()
  if (status !== 0 && tally.failed === 0) tally.failed = 1
  if (tally.failed > 0) process.stdout.write(stdout + stderr)
  add(total, tally)
  console.log(`${name}: ${tallyLine(tally)} in ${Math.round((Date.now() - begun) / 1000)} s`)
}
if (tests.length === 0) total.failed = 1
console.log(tallyLine(total))
process.exitCode = total.failed > 0 ? 1 : 0
