// Loads one model in a process of its own: reads its description from the first argument,
// prints the time and what the process held before and after as one JSON line.
import { open, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { Model } from '../index.js'
import { devices } from '../model/devices.js'
import { native } from '../native/load.js'
import { type Resident, residentMemory } from './resident.js'

/** What a child process is asked to load. */
export interface LoadSpec {
  model: string
  dtype: 'bf16' | 'f32'
  device: 'cpu' | 'cuda' | 'auto'
  arithmetic: 'auto' | 'native' | 'widen'
  threads: number
}

export interface LoadResult {
  seconds: number
  fileBytes: number
  /** Bytes of the engine's weights. */
  weightBytes: number
  before: Resident
  after: Resident
  /** Most held at once while loading; null where unknown. */
  peakBytes: number | null
  device: string
  threads: number
}

/** Reads a file once, so that its pages are in the system's cache. */
async function warm(path: string): Promise<void> {
  await using file = await open(path)
  const block = new Uint8Array(1 << 20)
  while ((await file.read(block)).bytesRead > 0);
}

async function measure({ model: directory, ...options }: LoadSpec): Promise<LoadResult> {
  const file = join(directory, 'model.safetensors')
  await warm(file)
  // The probe of the arithmetic belongs to the process, not to the file.
  await devices({ threads: options.threads })
  ;(globalThis as { gc?: () => void }).gc?.()
  const before = residentMemory()
  native().resetPeakMemory()
  const start = performance.now()
  await using model = await Model.load(directory, options)
  const seconds = (performance.now() - start) / 1000
  return {
    seconds,
    fileBytes: (await stat(file)).size,
    weightBytes: model.bytes,
    before,
    after: residentMemory(),
    peakBytes: native().peakMemory() || null,
    device: model.device,
    threads: model.threads,
  }
}

process.stdout.write(`${JSON.stringify(await measure(JSON.parse(process.argv[2]!) as LoadSpec))}\n`)
