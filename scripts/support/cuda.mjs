// What building and testing the CUDA backend needs.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { capture, fail, root } from './process.mjs'

/** The first that knows compute capability 10.0. */
const minimum = [12, 8]

/** The path of nvcc: on PATH, under CUDA_HOME or CUDA_PATH, or in CUDA's usual folder. */
export function findNvcc() {
  const roots = [process.env.CUDA_HOME, process.env.CUDA_PATH, '/usr/local/cuda'].filter(Boolean)
  const candidates = ['nvcc', ...roots.map((folder) => join(folder, 'bin', 'nvcc'))]
  for (const path of candidates) {
    const { status, stdout } = capture(path, ['--version'])
    const version = /release (\d+)\.(\d+)/.exec(stdout)
    if (status === 0 && version) {
      return { path, version: [Number(version[1]), Number(version[2])] }
    }
  }
  return undefined
}

/** nvcc's path; ends the process with remedies where there is none or an old one. */
export function requireNvcc() {
  const nvcc = findNvcc()
  const [major, minor] = nvcc?.version ?? [0, 0]
  if (major > minimum[0] || (major === minimum[0] && minor >= minimum[1])) return nvcc.path
  return fail(
    `${nvcc ? `nvcc of CUDA ${minimum.join('.')} or newer is needed, found ${major}.${minor} at ${nvcc.path}` : 'nvcc was not found on PATH, under CUDA_HOME or in /usr/local/cuda'}:\n` +
      "  1. Debian/Ubuntu, with NVIDIA's package repository: apt-get install cuda-nvcc-13-0\n" +
      '  2. elsewhere: https://developer.nvidia.com/cuda-downloads (the toolkit; no GPU is needed)\n' +
      'the CPU backend needs none of it: npm run build',
  )
}

/** Where the library lies in a folder. */
export const cudaLibrary = (folder) => join(folder, 'libs2ft_cuda.so')

/** Libraries that a shared library names as needed. */
export function neededLibraries(path) {
  const { status, stdout } = capture('readelf', ['-d', path])
  if (status !== 0) return undefined
  return [...stdout.matchAll(/\(NEEDED\).*\[(.+)\]/g)].map(([, name]) => name)
}

/** True when this checkout's addon is built. */
export const hasAddon = () => existsSync(join(root, 'build/Release/s2ft.node'))
