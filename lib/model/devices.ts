// What can compute on this machine, measured.
import type { NativeCudaReport, NativeDevice } from '../native/binding.js'
import { native } from '../native/load.js'

/** Every usable device with its measured peak; `threads` 0 means all CPUs of this process. */
export function devices(options: { threads?: number } = {}): Promise<NativeDevice[]> {
  return native().devices(options.threads ?? 0)
}

/** What of CUDA was found on this machine, and what is missing. */
export function cudaReport(): Promise<NativeCudaReport> {
  return native().cudaReport()
}
