// Runs the C++ tests (ctest) and the TypeScript tests (vitest) and adds up their counts.
// Arguments go to vitest: npm test -- trainer
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { runCtest } from './support/ctest.mjs'
import { root, run } from './support/process.mjs'
import { add, emptyTally, tallyLine, tallyVitest } from './support/tally.mjs'

const filters = process.argv.slice(2)
const report = join(root, 'build/vitest.json')

function runVitest() {
  mkdirSync(join(root, 'build'), { recursive: true })
  rmSync(report, { force: true })
  const status = run(process.execPath, [
    join(root, 'node_modules/vitest/vitest.mjs'),
    'run',
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report}`,
    ...filters,
  ])
  if (!existsSync(report)) return { ...emptyTally(), failed: 1 }
  const tally = tallyVitest(JSON.parse(readFileSync(report, 'utf8')))
  // vitest also fails for what is no test: unhandled errors, no test files.
  if (status !== 0 && tally.failed === 0) tally.failed = 1
  return tally
}

const total = emptyTally()
if (filters.length === 0) {
  console.log('C++ tests')
  add(total, runCtest('build'))
}
add(total, runVitest())
console.log(tallyLine(total))
process.exitCode = total.failed > 0 ? 1 : 0
