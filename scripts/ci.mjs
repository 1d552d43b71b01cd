// Continuous integration: installs what a bare machine lacks, then runs every check and adds
// up the counts. Started by .ci/run.
import { spawn } from 'node:child_process'
import { installed, root } from './support/process.mjs'
import { aptInstall, hasMpi, hasOneDnn, requireNode } from './support/requirements.mjs'
import { installModules } from './support/steps.mjs'
import { add, emptyTally, parseTallyLine, tallyLine } from './support/tally.mjs'

/** Runs a command with its output passed through; resolves to its status and that output. */
function tee(command, args) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] })
    let text = ''
    const collect = (stream) => (chunk) => {
      text += chunk
      stream.write(chunk)
    }
    child.stdout.on('data', collect(process.stdout))
    child.stderr.on('data', collect(process.stderr))
    child.on('error', () => resolve({ status: 127, text }))
    child.on('close', (code) => resolve({ status: code ?? 128, text }))
  })
}

const total = emptyTally()
const started = Date.now()

/** A step without its own count is one test; one with a tally line brings its own. */
async function step(name, command, args) {
  const begun = Date.now()
  console.log(`\n== ${name}`)
  const { status, text } = await tee(command, args)
  const tally = parseTallyLine(text) ?? { passed: status === 0 ? 1 : 0, failed: 0, skipped: 0 }
  if (status !== 0 && tally.failed === 0) tally.failed = 1
  add(total, tally)
  console.log(`== ${name}: ${tallyLine(tally)} in ${Math.round((Date.now() - begun) / 1000)} s`)
}

const needs = [
  ['cmake', installed('cmake')],
  ['g++', installed('c++')],
  ['make', installed('make')],
  ['clang-format', installed('clang-format')],
  ['libdnnl-dev', hasOneDnn()],
  ['openmpi-bin', hasMpi()],
  ['libopenmpi-dev', hasMpi()],
]
const missing = needs.filter(([, present]) => !present).map(([name]) => name)
if (missing.length > 0) {
  console.log(`Installing ${missing.join(', ')} ...`)
  if (!aptInstall(missing)) console.log('not all of these could be installed')
}

requireNode()
installModules()
const node = (script, ...args) => [process.execPath, [script, ...args]]
if (installed('clang-format')) {
  await step('format', ...node('scripts/format.mjs', '--check'))
} else {
  total.skipped += 1
  console.log('\n== format: skipped, clang-format is not installed and could not be')
}
await step('types', ...node('node_modules/typescript/bin/tsc', '--noEmit', '-p', 'tsconfig.json'))
await step('tests', 'npm', ['test', '--silent'])
await step('cuda', ...node('scripts/test-cuda.mjs'))
await step('AVX-512', ...node('scripts/test-avx512.mjs'))
await step('sanitizers', ...node('scripts/test-sanitize.mjs'))
if (hasOneDnn()) {
  await step('prebuild', ...node('scripts/prebuild.mjs'))
  await step('package', ...node('scripts/test-package.mjs'))
} else {
  total.skipped += 2
  console.log('\n== prebuild, package: skipped, oneDNN is not installed and could not be')
}
console.log(`\nall checks took ${Math.round((Date.now() - started) / 60_000)} min`)
console.log(tallyLine(total))
process.exitCode = total.failed > 0 ? 1 : 0
