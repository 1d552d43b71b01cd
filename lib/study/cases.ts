// What a study computes: cases, each named by all that decides its figures.
import type { Track } from './tracks.js'

/** The untrained model. */
export interface BaseCase {
  kind: 'base'
  track: Track
}

export interface TrainCase {
  kind: 'train'
  track: Track
  /** A name of variants.ts. */
  variant: string
  learningRate: number
  /** Of the method: selection, initial values. */
  seed: number
  /** Of the data: which samples, in which order. */
  order: number
  /** The validation rows' loss; or the test sets; or these, generated answers and far sets. */
  on: 'validation' | 'test' | 'answers'
  /** Key of a case whose adapter's units are not to be trained. */
  avoid?: string
}

/** Two adapters in one model, each with a weight. */
export interface FusionCase {
  kind: 'fusion'
  /** What the adapters are. */
  family: string
  seed: number
  parts: readonly { track: Track; weight: number; learningRate: number; adapter: string }[]
}

export type StudyCase = BaseCase | TrainCase | FusionCase

/** Names a case in files and messages; equal cases have equal keys. */
export function caseKey(spec: StudyCase): string {
  switch (spec.kind) {
    case 'base':
      return `${spec.track} base`
    case 'train': {
      const { track, variant, learningRate, seed, order, on } = spec
      const samples = order === seed ? '' : ` order ${order}`
      return `${track} ${variant} rate ${learningRate} seed ${seed}${samples} ${on}`
    }
    case 'fusion': {
      const parts = spec.parts.map(({ track, weight }) => `${track} ${weight}`)
      const rates = spec.parts.map(({ learningRate }) => learningRate)
      return `fusion ${spec.family} ${parts.join(' + ')} rates ${rates.join(' ')} seed ${spec.seed}`
    }
  }
}

/** Folder of the adapter that a case leaves behind. */
export function adapterFolder(key: string): string {
  return key.replace(/[^\w.-]+/g, '-')
}
