// Builds the CUDA backend, libs2ft_cuda.so, where nvcc is present, with or without a GPU.
// It goes beside the addon, which opens it on demand.
//   node scripts/build-cuda.mjs [--out DIR] [--architectures LIST]
import { mkdirSync, statSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { cudaLibrary, requireNvcc } from './support/cuda.mjs'
import { fail, installed, mustRun, root } from './support/process.mjs'
import { requireBuildTools, requireNode } from './support/requirements.mjs'

function options() {
  try {
    return parseArgs({
      options: {
        out: { type: 'string', default: 'build/Release' },
        architectures: { type: 'string', default: '80-real;90a-real;100' },
      },
    }).values
  } catch (error) {
    return fail(
      `${error.message}\nusage: node scripts/build-cuda.mjs [--out DIR] [--architectures LIST]`,
    )
  }
}

const { out, architectures } = options()
requireNode()
requireBuildTools()
const nvcc = requireNvcc()
const folder = join(root, 'build', 'cuda')
const place = join(root, out)
mkdirSync(place, { recursive: true })
console.log(`Building the CUDA backend for ${architectures} with ${nvcc} ...`)
mustRun('cmake', [
  ...['-S', root, '-B', folder, ...(installed('ninja') ? ['-G', 'Ninja'] : [])],
  '-DCMAKE_BUILD_TYPE=Release',
  '-DS2FT_CUDA=ON',
  `-DS2FT_CUDA_OUTPUT=${place}`,
  `-DCMAKE_CUDA_COMPILER=${nvcc}`,
  `-DCMAKE_CUDA_ARCHITECTURES=${architectures}`,
])
const jobs = String(availableParallelism())
mustRun('cmake', ['--build', folder, '--target', 's2ft_cuda', '--parallel', jobs])
const library = cudaLibrary(place)
console.log(`${library}  ${(statSync(library).size / 1e6).toFixed(1)} MB`)
