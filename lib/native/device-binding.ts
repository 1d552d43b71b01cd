// Devices as the native addon describes them: what computes here, and what of CUDA was found.

export interface NativeDevice {
  name: string
  kind: 'cpu' | 'cuda'
  /** What multiplies bf16 weights: 'bf16', 'amx' or 'f32'. */
  arithmetic: string
  isa: string
  gemm: string
  threads: number
  /** Measured by the probe, in GFLOP/s, with the chosen arithmetic. */
  peakGflops: number
  peakGflopsF32: number
  peakGflopsBf16: number
  /** CUDA only, like the two below. */
  multiprocessors?: number
  totalBytes?: number
  freeBytes?: number
}

/** A library of NVIDIA's that the CUDA backend opens at run time. */
export interface NativeCudaPiece {
  name: string
  /** Empty when it was not found. */
  path: string
  /** What it serves, and what serves without it. */
  purpose: string
  remedy: string
  /** Places where it was looked for in vain. */
  tried: string[]
}

export interface NativeCudaReport {
  /** The CUDA backend's library; empty when it could not be loaded. */
  library: string
  /** Why no device can be used; empty when one can. */
  problem: string
  tried: string[]
  /** As CUDA counts: 13000 is 13.0; 0: none. */
  driver: number
  runtime: number
  pieces: NativeCudaPiece[]
}

/** Memory of a device of its own, in bytes; all 0 on a CPU. */
export interface NativeDeviceMemory {
  total: number
  /** By every process. */
  used: number
  /** By this model and its trainers and decoders. */
  held: number
  /** The most held since it was last reset. */
  peak: number
}
