// What a machine needs before anything can be built, and how to get it.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { capture, fail, installed, run } from './process.mjs'
import { stamp, stamped } from './stamp.mjs'

const minimumNode = [20, 17]
const minimumCMake = [3, 20]
const oneDnnNote = 'build/.onednn-tried'

function atLeast(version, minimum) {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  return major > minimum[0] || (major === minimum[0] && minor >= minimum[1])
}

/** Ends the process with remedies when this Node is too old for the package. */
export function requireNode() {
  if (atLeast(process.versions.node, minimumNode)) return
  fail(
    `s2ft needs Node ${minimumNode.join('.')} or newer, found ${process.versions.node}.\n` +
      '  1. install a current release from https://nodejs.org\n' +
      '  2. or with a version manager: nvm install 22',
  )
}

/** Ends the process with numbered remedies when CMake or a C++ compiler is missing. */
export function requireBuildTools() {
  const problems = []
  const cmake = capture('cmake', ['--version'])
  const version = /version (\d+\.\d+)/.exec(cmake.stdout)?.[1]
  if (!version) {
    problems.push(
      'CMake was not found. Debian/Ubuntu: apt-get install cmake. Fedora: dnf install cmake. ' +
        'macOS: brew install cmake. Anywhere with Python: pip install cmake.',
    )
  } else if (!atLeast(version, minimumCMake)) {
    problems.push(
      `CMake ${minimumCMake.join('.')} or newer is needed, found ${version}. ` +
        'A current one: pip install cmake, or https://cmake.org/download.',
    )
  }
  const compilers = [process.env.CXX, 'c++', 'g++', 'clang++'].filter(Boolean)
  if (!compilers.some(installed)) {
    problems.push(
      'A C++17 compiler was not found. Debian/Ubuntu: apt-get install g++ make. ' +
        'Fedora: dnf install gcc-c++ make. macOS: xcode-select --install and brew install libomp.',
    )
  } else if (!installed('make') && !installed('ninja')) {
    problems.push('Neither make nor ninja was found. Debian/Ubuntu: apt-get install make.')
  }
  if (problems.length > 0) {
    const list = problems.map((problem, i) => `  ${i + 1}. ${problem}`).join('\n')
    fail(`the native addon cannot be built on this machine yet:\n${list}`)
  }
}

/** True when oneDNN's headers and library lie where the compiler looks. */
export function hasOneDnn() {
  const prefixes = [...(process.env.CMAKE_PREFIX_PATH ?? '').split(':'), '/usr', '/usr/local']
  if (process.platform === 'darwin') prefixes.push('/opt/homebrew')
  return prefixes.some(
    (prefix) => prefix && existsSync(join(prefix, 'include/oneapi/dnnl/dnnl.hpp')),
  )
}

/** True when MPI can be compiled against and its launcher is there. */
export function hasMpi() {
  return installed('mpicxx') && installed('mpirun')
}

/** How commands may be run as root: [] as root, ['sudo', '-n'] or undefined when they may not. */
function asRoot() {
  if (process.getuid?.() === 0) return []
  return capture('sudo', ['-n', 'true']).status === 0 ? ['sudo', '-n'] : undefined
}

/**
 * Installs Debian packages where that is allowed without asking; true on success.
 * S2FT_NO_APT=1 forbids it.
 */
export function aptInstall(packages) {
  if (process.env.S2FT_NO_APT || process.platform !== 'linux' || !installed('apt-get')) return false
  const prefix = asRoot()
  if (!prefix) return false
  const apt = (...args) => {
    const timeouts = ['-o', 'Acquire::http::Timeout=15', '-o', 'Acquire::Retries=1']
    const [command, ...rest] = [...prefix, 'env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get']
    return run(command, [...rest, '-q', ...timeouts, ...args], {
      stdio: ['ignore', 'ignore', 'ignore'],
      timeout: 300_000,
    })
  }
  const install = () => apt('install', '-y', '--no-install-recommends', ...packages) === 0
  return install() || (apt('update') === 0 && install())
}

/** Installs oneDNN when it is missing and may be installed; otherwise says so, once a day. */
export function ensureOneDnn() {
  if (hasOneDnn()) return
  const today = new Date().toISOString().slice(0, 10)
  if (stamped(oneDnnNote, today)) return
  if (process.platform === 'linux') console.log('Installing oneDNN (libdnnl-dev) with apt-get ...')
  if (aptInstall(['libdnnl-dev']) && hasOneDnn()) return
  stamp(oneDnnNote, today)
  console.warn(
    'warning: oneDNN was not found and could not be installed; processors with AMX then ' +
      'multiply without it (Debian/Ubuntu: apt-get install libdnnl-dev, then npm run build)',
  )
}
