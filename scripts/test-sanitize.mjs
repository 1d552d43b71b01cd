// Builds the C++ core and its tests with AddressSanitizer and UndefinedBehaviorSanitizer in
// build-asan/ and runs them.
import { jobs, runCtest } from './support/ctest.mjs'
import { mustRun } from './support/process.mjs'
import { requireBuildTools } from './support/requirements.mjs'
import { tallyLine } from './support/tally.mjs'

const directory = 'build-asan'

requireBuildTools()
mustRun('cmake', [
  '-S',
  '.',
  '-B',
  directory,
  '-DCMAKE_BUILD_TYPE=RelWithDebInfo',
  '-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -g1',
  '-DS2FT_TESTS=ON',
  '-DS2FT_SANITIZE=address,undefined',
])
mustRun('nice', ['-n', '10', 'cmake', '--build', directory, '--parallel', jobs])

const env = {
  // Leak detection is off: libgomp's team structures and oneDNN's caches of generated code
  // live until the process ends without being freed, and would be reported on every run.
  ASAN_OPTIONS: 'detect_leaks=0:strict_string_checks=1:detect_stack_use_after_return=1',
  UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
}
const tally = runCtest(directory, { env, timeout: 1200 })
console.log(tallyLine(tally))
process.exitCode = tally.failed > 0 ? 1 : 0
