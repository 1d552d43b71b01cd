// How large a study is: presets for a CPU, for full training sets, and for a look whether it works.
import type { Track } from './tracks.js'

export const presets = ['cpu', 'full', 'quick'] as const
export type Preset = (typeof presets)[number]

/** Everything but the seeds that decides the figures; results of other settings do not mix. */
export interface StudySettings {
  preset: Preset
  /** LoRA's rank; other methods with a budget train as many values. */
  rank: number
  training: Readonly<
    Record<
      Track,
      {
        /** Samples of a step. */
        batch: number
        /** Optimizer steps, or passes over the training rows. */
        steps?: number
        epochs?: number
      }
    >
  >
  /** Longest sequence in tokens; longer rows are left out everywhere. */
  maxLength: number
  /** Rows to train on; each seed draws its own samples of them. */
  trainRows: number
  /** Rows of the training files that decide the learning rate. */
  validationRows: number
  /** Items of every test set that are scored, and answered by generation. */
  items: number
  answers: number
  /** MMLU questions; blocks of plain text and their length in tokens. */
  mmlu: number
  textBlocks: number
  textLength: number
  /** Longest generated answer, and how many are generated at once. */
  maxNewTokens: number
  slots: number
  /** Rates tried at most beyond the first three, while the best is at their edge. */
  sweepExtensions: number
  /** Share of the training rows that selections and masks are calibrated on. */
  calibrationShare: number
  /** Where selection, allocation, components and seeds are compared. */
  variationTracks: readonly Track[]
  /** Whether these are also measured on what is far from both tracks. */
  farOnVariations: boolean
  /** With which weights a math and a commonsense adapter are fused, besides each alone. */
  fusionWeights: readonly (readonly [number, number])[]
  /** Runs of the seed table, for each source of variance. */
  seedRuns: number
  /** Masks of unstructured sparse fine-tuning. */
  masks: readonly ('random' | 'weight' | 'gradient' | 'fisher')[]
}

const all = Number.MAX_SAFE_INTEGER

const settings: Readonly<Record<Preset, StudySettings>> = {
  cpu: {
    preset: 'cpu',
    rank: 16,
    training: { math: { batch: 3, steps: 12 }, commonsense: { batch: 6, steps: 12 } },
    maxLength: 192,
    trainRows: 1024,
    validationRows: 16,
    items: 12,
    answers: 4,
    mmlu: 24,
    textBlocks: 6,
    textLength: 256,
    maxNewTokens: 48,
    slots: 32,
    sweepExtensions: 2,
    calibrationShare: 0.02,
    variationTracks: ['math'],
    farOnVariations: false,
    fusionWeights: [[1, 1]],
    seedRuns: 3,
    masks: ['random'],
  },
  full: {
    preset: 'full',
    rank: 16,
    training: { math: { batch: 16, epochs: 3 }, commonsense: { batch: 16, epochs: 3 } },
    maxLength: 1024,
    trainRows: all,
    validationRows: 256,
    items: all,
    answers: 256,
    mmlu: all,
    textBlocks: 256,
    textLength: 512,
    maxNewTokens: 256,
    slots: 64,
    sweepExtensions: 3,
    calibrationShare: 0.01,
    variationTracks: ['math', 'commonsense'],
    farOnVariations: true,
    fusionWeights: [
      [1, 1],
      [0.5, 0.5],
    ],
    seedRuns: 10,
    masks: ['random', 'weight', 'gradient', 'fisher'],
  },
  quick: {
    preset: 'quick',
    rank: 2,
    training: { math: { batch: 2, steps: 2 }, commonsense: { batch: 2, steps: 2 } },
    maxLength: 256,
    trainRows: 8,
    validationRows: 2,
    items: 3,
    answers: 1,
    mmlu: 3,
    textBlocks: 2,
    textLength: 32,
    maxNewTokens: 4,
    slots: 4,
    sweepExtensions: 0,
    calibrationShare: 0.25,
    variationTracks: ['math'],
    farOnVariations: true,
    fusionWeights: [
      [1, 1],
      [0.5, 0.5],
    ],
    seedRuns: 2,
    masks: ['random'],
  },
}

export function studySettings(preset: Preset): StudySettings {
  return settings[preset]
}
