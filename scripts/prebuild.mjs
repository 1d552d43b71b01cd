// Fills prebuilds/<platform>-<arch>/ with the addon and every library it needs that a machine
// with Node may lack (oneDNN, OpenMP, the OpenCL loader), each with its licence.
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { basename, join } from 'node:path'
import { capture, fail, mustRun, root } from './support/process.mjs'
import { hasOneDnn, requireNode } from './support/requirements.mjs'
import { buildAddon, compileTypeScript, installModules } from './support/steps.mjs'

const target = `${process.platform}-${process.arch}`
const folder = join(root, 'prebuilds', target)
// The C and C++ runtimes come with Node itself and must not be replaced by older ones.
const systemLibrary =
  /^(linux-vdso|ld-linux|libc\.|libm\.|libdl\.|librt\.|libpthread\.|libstdc\+\+|libgcc_s)/

/** Libraries to carry: [{ soname, path }], everything below the addon but the system's own. */
function carriedLibraries(addon) {
  const { status, stdout } = capture('ldd', [addon])
  if (status !== 0) fail(`ldd could not read ${addon}`)
  const found = []
  for (const line of stdout.split('\n')) {
    const [, soname, path] = /^\s*(\S+) => (\/\S+|not found)/.exec(line) ?? []
    if (!soname || systemLibrary.test(soname)) continue
    if (path === 'not found') fail(`${soname}, which the addon needs, was not found`)
    found.push({ soname, path })
  }
  return found
}

/** The Debian package that a library came from, with its source package. */
function debianOrigin(path) {
  // dpkg knows files by one of the two paths that a merged /usr gives them.
  const real = realpathSync(path)
  for (const candidate of [real, real.replace(/^\/usr/, '')]) {
    const owner = capture('dpkg-query', ['-S', candidate]).stdout.split(':')[0]
    if (!owner) continue
    const fields = ['Package', 'Version'].map((field) => `\${source:${field}}`).join(' ')
    return { owner, source: capture('dpkg-query', ['-W', '-f', fields, owner]).stdout.trim() }
  }
  return fail(`the licence of ${path} is unknown: it belongs to no Debian package`)
}

/** Writes what the package's copyright file says, and the licences it only refers to. */
function copyLicence(library) {
  const { owner, source } = debianOrigin(library.path)
  const licence = join('/usr/share/doc', owner, 'copyright')
  if (!existsSync(licence)) fail(`the licence of ${library.soname} was expected at ${licence}`)
  const text = readFileSync(licence, 'utf8')
  const head = [
    `${library.soname}, unmodified but for stripped symbols, from Debian's ${owner}.`,
    `Source: ${source}, https://snapshot.debian.org/package/${source.replace(' ', '/')}/`,
  ]
  const target = join(folder, 'licenses')
  writeFileSync(join(target, `${library.soname}.txt`), `${head.join('\n')}\n\n${text}`)
  for (const [common, name] of text.matchAll(/\/usr\/share\/common-licenses\/([\w.-]*\w)/g)) {
    if (name === 'GPL-3' && existsSync(common)) copyFileSync(common, join(target, `${name}.txt`))
  }
}

requireNode()
if (process.platform !== 'linux') fail('prebuilds are made on Linux only, so far')
installModules()
buildAddon()
compileTypeScript()
if (!hasOneDnn()) fail('a prebuild needs oneDNN: apt-get install libdnnl-dev, then try again')

const built = join(root, 'build/Release/s2ft.node')
rmSync(folder, { recursive: true, force: true })
mkdirSync(join(folder, 'licenses'), { recursive: true })
const addon = join(folder, 's2ft.glibc.node')
const libraries = carriedLibraries(built)
copyFileSync(built, addon)
for (const library of libraries) {
  copyFileSync(realpathSync(library.path), join(folder, library.soname))
  copyLicence(library)
}
const files = [addon, ...libraries.map(({ soname }) => join(folder, soname))]
// Opened on demand, where they were built: for OpenMPI, whose own libraries are the user's (other
// MPIs need a build of their own), and for CUDA (npm run build:cuda).
for (const name of ['libs2ft_mpi.so', 'libs2ft_cuda.so']) {
  const library = join(root, 'build/Release', name)
  if (!existsSync(library)) continue
  files.push(join(folder, name))
  copyFileSync(library, files.at(-1))
}
for (const file of files) mustRun('strip', ['--strip-unneeded', file])
for (const file of files) {
  console.log(`${target}/${basename(file)}  ${(statSync(file).size / 1e6).toFixed(1)} MB`)
}
