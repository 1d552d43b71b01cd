// Builds the CUDA backend where nvcc is present, with or without a GPU.
import { fail } from './support/process.mjs'
import { listFiles } from './support/stamp.mjs'

if (listFiles(['cuda'], (path) => path.endsWith('.cu')).length === 0) {
  fail('this version of s2ft has no CUDA backend yet; the CPU backend is built by: npm run build')
}
