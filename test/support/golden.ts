// The golden cases of test/golden, typed, and the distances that tests measure against them.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { GaloreOptions, LoraOptions } from '../../lib/index.js'
import { type RawTensor, readSafetensors, valuesOf } from './safetensors.js'

export const goldenRoot = fileURLToPath(new URL('../golden/', import.meta.url))

export type Module = 'q' | 'k' | 'v' | 'o' | 'gate' | 'up' | 'down'

export interface Sample {
  tokens: Int32Array
  labels: Int32Array
}

/** A training run of a golden case; `steps` lists the batches that each step accumulates. */
export interface GoldenRun {
  name: string
  method: 's2ft' | 'lora' | 'dora' | 'galore' | 'full'
  select?: Partial<Record<Module, number[][]>>
  lora?: LoraOptions & { r: number; alpha: number; targetModules: string[] }
  galore?: GaloreOptions
  /** The adapter that a lora or dora run starts from. */
  init?: string
  options: {
    learningRate: number
    weightDecay: number
    maxGradNorm: number
    lrScheduler: 'linear' | 'cosine' | 'constant'
    warmupSteps: number
    maxSteps: number
    gradientAccumulationSteps: number
    adamBeta1: number
    adamBeta2: number
    adamEpsilon: number
  }
  steps: number[][]
}

/** What PyTorch's own float32 or bfloat16 run differs from float64 by, norm-wise. */
export type MeasuredError = Record<
  'logits' | 'logprobs' | 'loss' | 'gradient' | 'losses' | 'gradNorms' | 'trained',
  number
>

export interface GoldenCase {
  name: string
  directory: string
  about: string
  trainedTokens: number
  sequences: Int32Array[]
  batches: Sample[][]
  runs: GoldenRun[]
  float32Error: MeasuredError
  bfloat16Error?: MeasuredError
  expected: Map<string, RawTensor>
}

export const goldenNames = [
  'llama-gqa',
  'llama-tied',
  'llama-explicit-head-dim',
  'llama-biases',
  'llama-linear-rope',
  'llama-dynamic-rope',
  'llama-llama3-rope',
  'llama-sharded',
  'llama-bf16',
  'llama-f16',
  'mistral',
  'qwen2',
  'qwen2-sliding',
  'qwen3',
] as const

export function loadGolden(name: string): GoldenCase {
  const directory = join(goldenRoot, name)
  const facts = JSON.parse(readFileSync(join(directory, 'case.json'), 'utf8'))
  return {
    ...facts,
    name,
    directory,
    sequences: facts.sequences.map((tokens: number[]) => Int32Array.from(tokens)),
    batches: facts.batches.map((batch: { tokens: number[]; labels: number[] }[]) =>
      batch.map(({ tokens, labels }) => ({
        tokens: Int32Array.from(tokens),
        labels: Int32Array.from(labels),
      })),
    ),
    expected: readSafetensors(join(directory, 'expected.safetensors')),
  }
}

/** Every run of every case with one of the given methods, titled, for `test.each`. */
export function goldenRuns(...methods: GoldenRun['method'][]) {
  return goldenNames.flatMap((name) => {
    const golden = loadGolden(name)
    return golden.runs
      .filter((run) => methods.includes(run.method))
      .map((run) => [`${name}: ${run.name}`, { golden, run }] as const)
  })
}

/** An expected tensor; throws when the case does not hold it. */
export function expectedTensor(golden: GoldenCase, key: string) {
  const raw = golden.expected.get(key)
  if (!raw) throw new Error(`${golden.name}/expected.safetensors has no tensor ${key}`)
  return { shape: raw.shape, values: valuesOf(raw) }
}

/** Names of expected tensors that start with `prefix`, without it. */
export function expectedNames(golden: GoldenCase, prefix: string): string[] {
  return [...golden.expected.keys()]
    .filter((key) => key.startsWith(prefix))
    .map((key) => key.slice(prefix.length))
    .sort()
}

/** ‖actual − expected‖ / ‖expected‖; infinite for different lengths or values that are not finite. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Number.POSITIVE_INFINITY
  let difference = 0
  let norm = 0
  for (let i = 0; i < expected.length; i++) {
    difference += (actual[i]! - expected[i]!) ** 2
    norm += expected[i]! ** 2
  }
  if (!Number.isFinite(difference)) return Number.POSITIVE_INFINITY
  return norm === 0 ? Math.sqrt(difference) : Math.sqrt(difference / norm)
}

/** max|actual − expected| / max|expected|; infinite as above. */
export function errorOfLargest(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Number.POSITIVE_INFINITY
  let difference = 0
  let largest = 0
  for (let i = 0; i < expected.length; i++) {
    // A NaN must win: Math.max carries it on, and it is mapped to infinity below.
    difference = Math.max(difference, Math.abs(actual[i]! - expected[i]!))
    largest = Math.max(largest, Math.abs(expected[i]!))
  }
  return Number.isFinite(difference) ? difference / largest : Number.POSITIVE_INFINITY
}
