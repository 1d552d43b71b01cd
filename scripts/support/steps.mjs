// The steps of setting up a checkout. Each does nothing when its result is already there.
import { existsSync, readFileSync, rmSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { installed, mustRun, root } from './process.mjs'
import { ensureOneDnn, hasMpi, hasOneDnn, requireBuildTools } from './requirements.mjs'
import { fingerprint, stamp, stamped } from './stamp.mjs'

const addon = 'build/Release/s2ft.node'

function readJson(path) {
  try {
    return JSON.parse(readFileSync(join(root, path), 'utf8'))
  } catch {
    return undefined
  }
}

/** True when node_modules holds the versions of package-lock.json (optional ones may lack). */
function modulesMatchLock() {
  const wanted = readJson('package-lock.json')?.packages
  const found = readJson('node_modules/.package-lock.json')?.packages
  if (!wanted || !found) return false
  return Object.entries(wanted).every(
    ([path, entry]) =>
      path === '' ||
      entry.version === found[path]?.version ||
      (entry.optional && found[path] === undefined),
  )
}

/** Installs the npm packages of package-lock.json. */
export function installModules() {
  if (modulesMatchLock()) return
  console.log('Installing npm packages ...')
  mustRun('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'])
}

/** Starts cmake-js at low priority, so that the machine stays usable while it compiles. */
function cmakeJs(args) {
  const script = join(root, 'node_modules/cmake-js/bin/cmake-js')
  const command = [process.execPath, script, ...args, '--log-level', 'warn']
  const nice = process.platform !== 'win32' && installed('nice') ? ['nice', '-n', '10'] : []
  const [program, ...rest] = [...nice, ...command]
  mustRun(program, rest)
}

/** A CMake cache made in another folder, or by another generator, cannot be reused. */
function dropForeignCache(out) {
  const cache = join(root, out, 'CMakeCache.txt')
  if (!existsSync(cache)) return
  const text = readFileSync(cache, 'utf8')
  const home = /^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$/m.exec(text)?.[1]
  const generator = /^CMAKE_GENERATOR:INTERNAL=(.*)$/m.exec(text)?.[1]
  const current = installed('ninja') ? 'Ninja' : 'Unix Makefiles'
  if (home !== root || (process.platform === 'linux' && generator !== current)) {
    rmSync(join(root, out), { recursive: true, force: true })
  }
}

/**
 * Configures and builds with cmake-js into `out`; the addon lies in `<out>/Release`.
 * With `tests` the C++ tests are built too.
 */
export function buildAddon({ out = 'build', tests = false } = {}) {
  const inputs = ['cpp', 'cuda', 'CMakeLists.txt', 'package.json']
  const state = () => fingerprint(inputs, [hasOneDnn(), hasMpi(), process.env.CXX ?? ''])
  const current = state()
  const stampFile = `${out}/.stamp-${tests ? 'tests' : 'addon'}`
  const built = out !== 'build' || existsSync(join(root, addon))
  if (built && (stamped(stampFile, current) || stamped(`${out}/.stamp-tests`, current))) return
  requireBuildTools()
  ensureOneDnn()
  console.log(`Building the native addon${tests ? ' and the C++ tests' : ''} ...`)
  dropForeignCache(out)
  const place = ['--out', join(root, out), '--config', 'Release']
  cmakeJs(['configure', ...place, `--CDS2FT_TESTS=${tests ? 'ON' : 'OFF'}`])
  cmakeJs(['build', ...place, '--parallel', String(availableParallelism())])
  stamp(stampFile, state())
}

/** Compiles lib/ to dist/. */
export function compileTypeScript() {
  const current = fingerprint(['lib', 'tsconfig.json', 'package-lock.json'])
  const file = 'dist/.stamp'
  if (stamped(file, current)) return
  console.log('Compiling TypeScript ...')
  rmSync(join(root, 'dist'), { recursive: true, force: true })
  mustRun(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', 'tsconfig.json'])
  stamp(file, current)
}
