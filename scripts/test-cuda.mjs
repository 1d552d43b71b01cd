// Compiles and links the CUDA backend for every architecture, and tests that the package
// opens it: with a device the device serves, without a driver the error says what to do.
//   node scripts/test-cuda.mjs
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { cudaLibrary, findNvcc, neededLibraries } from './support/cuda.mjs'
import { mustRun, root } from './support/process.mjs'
import { buildAddon, compileTypeScript, installModules } from './support/steps.mjs'
import { add, emptyTally, tallyLine } from './support/tally.mjs'

const system = /^(ld-linux|libc\.|libm\.|libdl\.|librt\.|libpthread\.|libstdc\+\+|libgcc_s)/
const total = emptyTally()

async function test(name, body) {
  try {
    await body()
    add(total, { passed: 1, failed: 0, skipped: 0 })
    console.log(`ok   ${name}`)
  } catch (error) {
    add(total, { passed: 0, failed: 1, skipped: 0 })
    console.log(`FAIL ${name}: ${error.message}`)
  }
}

function check(condition, message) {
  if (!condition) throw new Error(message)
}

if (!findNvcc()) {
  console.log('skip the CUDA backend: nvcc is not installed')
  console.log(tallyLine({ ...total, skipped: 1 }))
  process.exit(0)
}
installModules()
buildAddon()
compileTypeScript()
mustRun(process.execPath, [join(root, 'scripts/build-cuda.mjs')])
const library = cudaLibrary(join(root, 'build/Release'))

await test("it needs the system's libraries only", () => {
  const needed = neededLibraries(library)
  check(needed, 'readelf could not read it')
  const others = needed.filter((name) => !system.test(name))
  check(others.length === 0, `expected none but the system's, found ${others.join(', ')}`)
})

const s2ft = await import(pathToFileURL(join(root, 'dist/index.js')).href)
const { native } = await import(pathToFileURL(join(root, 'dist/native/load.js')).href)
const report = await native().cudaReport()
const model = join(root, 'models/tiny')

await test('the addon opens it', () => {
  check(report.library === library, `expected ${library}, tried ${report.tried.join(', ')}`)
  check(report.runtime >= 12000, `expected a CUDA runtime, found ${report.runtime}`)
  const names = report.pieces.map((piece) => piece.name).join()
  check(names === 'cuBLASLt,cuDNN,NCCL', `expected three libraries, found ${names}`)
})

if (report.problem) {
  await test('without a device, cuda is an error that says what to do', async () => {
    const error = await s2ft.Model.load(model, { device: 'cuda' }).catch((e) => e)
    check(error.code === 'DEVICE_UNAVAILABLE', `expected DEVICE_UNAVAILABLE, found ${error.code}`)
    check(/driver|device/.test(error.message), `expected a remedy, found ${error.message}`)
    console.log(`     ${error.message}`)
  })
  await test('without a device, auto is the CPU', async () => {
    const loaded = await s2ft.Model.load(model, { device: 'auto' })
    check(loaded.device === 'cpu', `expected cpu, found ${loaded.device}`)
    await loaded.dispose()
  })
} else {
  await test('auto is the CUDA device, and it computes as the CPU does', async () => {
    const tokens = Int32Array.from({ length: 40 }, (_, i) => 1 + (i % 50))
    const logits = []
    for (const device of ['cpu', 'auto']) {
      const loaded = await s2ft.Model.load(model, { device, dtype: 'f32' })
      check(loaded.device === (device === 'cpu' ? 'cpu' : 'cuda'), `found ${loaded.device}`)
      logits.push(await loaded.logits(tokens))
      await loaded.dispose()
    }
    const worst = logits[0].reduce((most, x, i) => Math.max(most, Math.abs(x - logits[1][i])), 0)
    check(worst < 1e-3, `expected equal logits, found a difference of ${worst}`)
  })
}
console.log(tallyLine(total))
process.exitCode = total.failed > 0 ? 1 : 0
