// Says what of CUDA is on this machine and what is missing: the driver, the package's CUDA
// backend, and the libraries that it opens.
import type { NativeCudaReport } from '../native/binding.js'

export interface CudaReport {
  /** What was found, and where. */
  found: string[]
  /** What is missing, what to install, and where it was looked for. */
  missing: string[]
}

const version = (n: number) => `${Math.floor(n / 1000)}.${Math.floor((n % 1000) / 10)}`

/** The addon's report as lines. */
export function cudaReport(report: NativeCudaReport): CudaReport {
  const found: string[] = []
  const missing: string[] = []
  if (report.library)
    found.push(`CUDA backend ${report.library}, runtime ${version(report.runtime)}`)
  if (report.driver > 0) found.push(`NVIDIA driver for CUDA ${version(report.driver)}`)
  if (report.problem) missing.push(report.problem)
  for (const { name, path, purpose, remedy, tried } of report.pieces) {
    if (path) found.push(`${name} ${path}`)
    else missing.push(`${name}, for ${purpose}: ${remedy}; tried ${tried.join(', ')}`)
  }
  return { found, missing }
}
