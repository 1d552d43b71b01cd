// Says what of CUDA is on this machine and what is missing, without loading any of it.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { packageRoot } from '../native/load.js'

export interface CudaReport {
  /** What was found, and where. */
  found: string[]
  /** What was looked for in vain, and in which places. */
  missing: string[]
}

function libraryPlaces(): string[] {
  const path = process.env.LD_LIBRARY_PATH?.split(':').filter(Boolean) ?? []
  const cuda = process.env.CUDA_HOME ?? process.env.CUDA_PATH
  return [
    ...path,
    ...(cuda ? [join(cuda, 'lib64')] : []),
    '/usr/lib/x86_64-linux-gnu',
    '/usr/lib/aarch64-linux-gnu',
    '/usr/lib64',
    '/usr/lib/wsl/lib',
    '/usr/local/cuda/lib64',
  ].filter((place, i, all) => existsSync(place) && all.indexOf(place) === i)
}

function findLibrary(name: string, places: readonly string[]): string | undefined {
  for (const place of places) {
    try {
      const file = readdirSync(place).find((entry) => entry.startsWith(`${name}.so`))
      if (file) return join(place, file)
    } catch {
      // A place that cannot be listed has nothing to offer.
    }
  }
  return undefined
}

/** Looks for the driver, CUDA's libraries and the package's own CUDA backend. */
export function cudaReport(): CudaReport {
  const found: string[] = []
  const missing: string[] = []
  const driver = '/proc/driver/nvidia/version'
  if (existsSync(driver)) found.push(readFileSync(driver, 'utf8').split('\n')[0]!.trim())
  else missing.push(`NVIDIA driver (${driver})`)
  const places = libraryPlaces()
  for (const library of ['libcuda', 'libcublasLt', 'libcudnn']) {
    const file = findLibrary(library, places)
    if (file) found.push(file)
    else missing.push(`${library}.so (${places.join(', ')})`)
  }
  const prebuilt = join(packageRoot, 'prebuilds', `${process.platform}-${process.arch}`)
  const built = join(packageRoot, 'build', 'Release')
  const backend = findLibrary('libs2ft_cuda', [prebuilt, built])
  if (backend) found.push(backend)
  else missing.push(`the package's CUDA backend, libs2ft_cuda.so (${prebuilt}, ${built})`)
  return { found, missing }
}
