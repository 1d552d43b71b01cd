// One call for one GPU: builds what is missing, checks the CUDA backend on the device, and
// measures training beside PyTorch, in less than ten minutes. README.md says how to read it.
//   node bench/gpu/run.mjs [--output DIR] [--python PATH] [--minutes N] [--only build,check,measure]
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { cudaLibrary, hasAddon } from '../../scripts/support/cuda.mjs'
import { capture, fail, root } from '../../scripts/support/process.mjs'
import { casesOf } from './cases.mjs'
import { Clock, Log } from './steps.mjs'

const parts = ['build', 'check', 'measure']

function options() {
  try {
    const { values } = parseArgs({
      options: {
        output: { type: 'string', default: 'gpu-results' },
        python: { type: 'string' },
        minutes: { type: 'string', default: '9.5' },
        only: { type: 'string', default: parts.join() },
        device: { type: 'string', default: 'cuda' },
        models: { type: 'string', default: 'llama-7b,llama-13b' },
        methods: { type: 'string', default: 's2ft,lora3,lora7,dora3,lisa,full' },
        shapes: { type: 'string', default: '1x512,2x512,1x1024,2x1024,1x4096' },
        steps: { type: 'string', default: '5' },
        architectures: { type: 'string' },
      },
    })
    const only = values.only.split(',')
    const minutes = Number(values.minutes)
    const shapes = values.shapes.split(',').map((shape) => /^(\d+)x(\d+)$/.exec(shape))
    const wrong = only.find((part) => !parts.includes(part))
    if (wrong !== undefined) throw new Error(`--only: expected some of ${parts}, found ${wrong}`)
    if (!(minutes > 0)) throw new Error(`--minutes: expected a number, found ${values.minutes}`)
    if (!/^[1-9]\d*$/.test(values.steps))
      throw new Error(`--steps: expected a number, found ${values.steps}`)
    if (shapes.includes(null))
      throw new Error(`--shapes: expected BATCHxTOKENS,..., found ${values.shapes}`)
    const sizes = shapes.map(([, batch, sequence]) => ({ batch, sequence }))
    return { ...values, only, minutes, shapes: sizes }
  } catch (error) {
    return fail(
      `${error.message}\nusage: see the head of bench/gpu/run.mjs, and bench/gpu/README.md`,
    )
  }
}

const asked = options()
const output = resolve(asked.output)
mkdirSync(output, { recursive: true })
const clock = new Clock(asked.minutes * 60)
const log = new Log(join(output, 'log.txt'), clock)
const node = (script, ...args) => [process.execPath, join(root, script), ...args]
const cuda = asked.device === 'cuda'
const scratch = mkdtempSync(join(tmpdir(), 's2ft-gpu-'))
const directories = new Map()
const testFolder = join(root, 'build', 'gpu')

/** The device's own architecture: one is enough for one card, and quick to compile. */
function architectures() {
  if (asked.architectures) return asked.architectures
  const { stdout } = capture('nvidia-smi', ['--query-gpu=compute_cap', '--format=csv,noheader'])
  const found = stdout.trim().split('\n')[0]?.replace('.', '')
  if (!/^\d+$/.test(found ?? '')) return '80-real;90a-real;100'
  return found === '90' ? '90a-real' : `${found}-real`
}

function build() {
  if (!hasAddon()) log.run('build the addon', node('scripts/setup.mjs'))
  if (!cuda) return
  const library = cudaLibrary(join(root, 'build/Release'))
  if (!existsSync(library)) {
    const args = ['--architectures', architectures()]
    log.run('build the CUDA backend', node('scripts/build-cuda.mjs', ...args))
  }
  if (!asked.only.includes('check')) return
  log.run('configure the tests', [
    ...['cmake', '-S', root, '-B', testFolder, '-DS2FT_TESTS=ON', '-DS2FT_CUDA_EMULATED=OFF'],
    '-DCMAKE_BUILD_TYPE=Release',
  ])
  log.run('build the tests', ['cmake', '--build', testFolder, '--target', 'cuda_tests', '-j'])
}

/** The conformance suite, models against the CPU, and compute-sanitizer where it is present. */
function check() {
  if (!cuda) return log.note('check: skipped, no CUDA device was asked for')
  const env = { S2FT_CUDA_LIBRARY: cudaLibrary(join(root, 'build/Release')) }
  const tests = [
    'cuda_conformance_test',
    'cuda_attention_test',
    'cuda_model_test',
    'cuda_repeats_test',
    'cuda_decoder_test',
  ]
  for (const test of tests) log.run(test, [join(testFolder, test)], { env, mayFail: true })
  log.run('cuda_attention_test, cuDNN', [join(testFolder, 'cuda_attention_test')], {
    env: { ...env, S2FT_CUDA_ATTENTION: 'cudnn' },
    mayFail: true,
  })
  if (capture('compute-sanitizer', ['--version']).status !== 0) {
    return log.note('compute-sanitizer: skipped, it is not installed')
  }
  // Kernels under it run some hundred times slower: the tests of small shapes.
  for (const tool of ['memcheck', 'racecheck']) {
    for (const part of [
      'small_and_odd',
      'rms_norm_of_zeros',
      'cross_entropy_of_extreme',
      'adamw',
    ]) {
      const command = ['compute-sanitizer', '--tool', tool, '--error-exitcode', '9']
      command.push(join(testFolder, 'cuda_conformance_test'), part)
      log.run(`compute-sanitizer ${tool}, ${part}`, command, { env, mayFail: true, limit: 30 })
    }
  }
}

/** A model's directory: random weights are written once, for all calls. */
async function directoryOf(model) {
  if (directories.has(model)) return directories.get(model)
  const { shapes } = await import(pathToFileURL(join(root, 'dist/bench/shapes.js')).href)
  let directory = model
  if (Object.hasOwn(shapes, model)) {
    log.note(`writing random weights in the shape of ${model}`)
    const { writeRandomModel } = await import(
      pathToFileURL(join(root, 'dist/bench/random-model.js')).href
    )
    directory = join(scratch, model)
    await writeRandomModel(directory, shapes[model], 'bf16')
  }
  directories.set(model, directory)
  return directory
}

async function measure() {
  log.run('devices', node('dist/cli/main.js', 'devices', '--json'), { mayFail: true })
  for (const { model, name, file, args, env } of casesOf(asked)) {
    if (clock.left() < 45) {
      log.note(`${name}: left out, ${clock.left().toFixed(0)} s of ${asked.minutes} min are left`)
      continue
    }
    const place = await directoryOf(model)
    const command = node('dist/cli/main.js', 'bench', 'train', '--model', place, ...args)
    log.run(name, [...command, '--json', '--output', join(output, file)], { env, mayFail: true })
  }
}

const steps = { build, check, measure }
try {
  for (const part of parts) if (asked.only.includes(part)) await steps[part]()
} catch (error) {
  log.failed ||= 1
  log.note(error.message)
} finally {
  rmSync(scratch, { recursive: true, force: true })
}
log.note(`${log.failed} of ${log.ran} steps failed, ${clock.spent().toFixed(0)} s`)
writeFileSync(join(output, 'steps.json'), `${JSON.stringify(log.results, null, 1)}\n`)
process.exitCode = log.failed > 0 ? 1 : 0
