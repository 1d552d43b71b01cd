// Packs the package as it is published, installs the tarball in an empty folder where no
// compiler and no CMake can be found, and uses it there. Needs `npm run prebuild` first.
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { capture, fail, root } from './support/process.mjs'
import { tallyLine } from './support/tally.mjs'

const target = `${process.platform}-${process.arch}`
if (!existsSync(join(root, 'prebuilds', target))) fail('no prebuild yet: npm run prebuild')

const work = mkdtempSync(join(tmpdir(), 's2ft-package-'))
const app = join(work, 'app')
const bin = join(work, 'bin')
const tally = { passed: 0, failed: 0, skipped: 0 }

function check(name, body) {
  const problem = body()
  tally[problem ? 'failed' : 'passed'] += 1
  console.log(`${problem ? 'FAIL' : 'ok  '} ${name}${problem ? `: ${problem}` : ''}`)
}

/** A PATH that holds Node, npm and a shell, and nothing that could build anything. */
function bareEnvironment() {
  mkdirSync(bin)
  for (const tool of ['node', 'npm', 'sh']) {
    const path = tool === 'node' ? process.execPath : capture('which', [tool]).stdout.trim()
    symlinkSync(path, join(bin, tool))
  }
  const kept = Object.entries(process.env).filter(
    ([name]) => !/^(npm_|NODE_|LD_|CC$|CXX$|S2FT_)/.test(name) || /registry|proxy/i.test(name),
  )
  return { ...Object.fromEntries(kept), PATH: bin }
}

const packed = capture('npm', ['pack', '--json', '--pack-destination', work])
if (packed.status !== 0) fail(`npm pack failed:\n${packed.stderr}`)
const [{ filename, files, size }] = JSON.parse(packed.stdout)
const env = bareEnvironment()
const inApp = (command, args, timeout = 600_000) =>
  capture(command, args, { cwd: app, env, timeout })
const output = ({ status, stdout, stderr }) => `exit status ${status}\n${stdout}${stderr}`

check(`the tarball (${(size / 1e6).toFixed(1)} MB) holds what users need and no sources`, () => {
  const paths = files.map((file) => file.path)
  const wanted = [
    'LICENSE',
    'THIRD_PARTY_NOTICES',
    'dist/index.js',
    'dist/index.d.ts',
    'examples/quickstart/run.mjs',
    'models/tiny/model.safetensors',
    `prebuilds/${target}/s2ft.glibc.node`,
  ]
  const missing = wanted.filter((path) => !paths.includes(path))
  const extra = paths.filter((path) => /^(cpp|cuda|lib|test|bench|scripts|build)/.test(path))
  const problems = [...missing.map((p) => `lacks ${p}`), ...extra.map((p) => `holds ${p}`)]
  return problems.join(', ')
})

check('it installs in an empty folder without compiler and CMake', () => {
  mkdirSync(app)
  writeFileSync(join(app, 'package.json'), '{ "name": "app", "private": true, "type": "module" }\n')
  for (const tool of ['cmake', 'c++', 'g++', 'gcc', 'cc', 'clang++', 'make']) {
    if (inApp('sh', ['-c', `command -v ${tool}`]).status === 0) return `${tool} is on the PATH`
  }
  const result = inApp('npm', ['install', '--no-audit', '--no-fund', join(work, filename)])
  return result.status === 0 ? '' : output(result)
})

check('its libraries are its own', () => {
  const script = `
    import { readFileSync } from 'node:fs'
    import { devices } from 's2ft'
    await devices()
    const maps = readFileSync('/proc/self/maps', 'utf8')
    console.log([...new Set(maps.match(/\\/\\S*(?:libdnnl|libgomp|libOpenCL|s2ft)[^/\\s]*\\.(?:so|node)\\S*/g))].join('\\n'))`
  const result = inApp('node', ['--input-type=module', '-e', script])
  if (result.status !== 0) return output(result)
  const mapped = result.stdout.trim().split('\n')
  const inside = (path) => path.startsWith(join(app, 'node_modules/s2ft/prebuilds', target))
  const lacking = ['libdnnl', 'libgomp', 's2ft.glibc.node'].filter(
    (name) => !mapped.some((path) => path.includes(name) && inside(path)),
  )
  const foreign = mapped.filter((path) => !inside(path))
  return lacking.length + foreign.length > 0 ? `lacking ${lacking}; foreign ${foreign}` : ''
})

check('the command line answers', () => {
  const result = inApp('sh', ['-c', 'node_modules/.bin/s2ft --help'])
  return result.status === 0 && /train/.test(result.stdout) ? '' : output(result)
})

if (existsSync(join(root, 'prebuilds', target, 'libs2ft_cuda.so'))) {
  check('it finds its CUDA backend', () => {
    const result = inApp('sh', ['-c', 'node_modules/.bin/s2ft devices --json'])
    const cuda = result.stdout.split('\n').filter((line) => line.includes('"kind":"cuda"'))
    const missing = cuda.some((line) => line.includes('could not be loaded'))
    return result.status === 0 && cuda.length > 0 && !missing ? '' : output(result)
  })
}

check('the quickstart runs and the held-out score rises', () => {
  const result = inApp('node', ['node_modules/s2ft/examples/quickstart/run.mjs'])
  const score = (when) =>
    Number(new RegExp(`held-out ${when}.*?([\\d.]+)%`).exec(result.stdout)?.[1] ?? Number.NaN)
  console.log(result.stdout)
  const rose = score('after') > score('before')
  return result.status === 0 && rose ? '' : output(result)
})

check('a server answers', () => {
  // The prompt is long enough for the thread that encodes long texts.
  const script = `
    import { Engine, Model, serve } from 's2ft'
    const model = await Model.load('node_modules/s2ft/models/tiny')
    const engine = await Engine.create(model)
    const server = await serve(engine, { port: 0, modelName: 'tiny' })
    const answer = await fetch(server.url + '/v1/completions', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'tiny', prompt: 'tree '.repeat(600), max_tokens: 1 }),
    })
    console.log(answer.status, await answer.text())
    await server.stop()
    await engine.dispose()
    await model.dispose()`
  const { status, stdout, stderr } = inApp('node', ['--input-type=module', '-e', script])
  return status === 0 && /^400 .*found \d+ of the prompt/.test(stdout) ? '' : stdout + stderr
})

rmSync(work, { recursive: true, force: true })
console.log(tallyLine(tally))
process.exitCode = tally.failed > 0 ? 1 : 0
