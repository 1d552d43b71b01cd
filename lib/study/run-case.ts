// Computes one case: a fresh model, training or fusion, and scores.
import { join } from 'node:path'
import { Adapter } from '../adapter/adapter.js'
import { S2FTError } from '../errors.js'
import type { Model } from '../model/model.js'
import { Trainer } from '../trainer/trainer.js'
import {
  adapterFolder,
  type BaseCase,
  caseKey,
  type FusionCase,
  type StudyCase,
  type TrainCase,
} from './cases.js'
import type { StudyData } from './data.js'
import { scaledAdapter } from './fusion.js'
import type { CaseLine } from './lines.js'
import { scoreLoss, scoreSets } from './score.js'
import type { StudySettings } from './settings.js'
import { farSets, type Track, testSets, tracks } from './tracks.js'
import { keptVariants, variantNamed } from './variants.js'

export interface CaseContext {
  settings: StudySettings
  data: StudyData
  /** Loads the base; the case disposes of it. */
  load: () => Promise<Model>
  /** Where adapters for fusion lie. */
  adapters: string
  signal?: AbortSignal | undefined
}

/**
 * Runs a case to its end. Throws CANCELLED when the signal stops it, and what training throws,
 * except that training which leaves the finite numbers is a result: it diverged.
 */
export async function runCase(spec: StudyCase, context: CaseContext): Promise<CaseLine> {
  const started = performance.now()
  const model = await context.load()
  try {
    const found = await computed(spec, model, context)
    const seconds = (performance.now() - started) / 1000
    return { type: 'case', key: caseKey(spec), kind: spec.kind, ...found, seconds }
  } finally {
    await model.dispose()
  }
}

type Computed = Omit<CaseLine, 'type' | 'key' | 'kind' | 'seconds'>

function computed(spec: StudyCase, model: Model, context: CaseContext): Promise<Computed> {
  switch (spec.kind) {
    case 'base':
      return base(spec, model, context)
    case 'train':
      return trained(spec, model, context)
    case 'fusion':
      return fused(spec, model, context)
  }
}

const untrained = {
  ...{ trainable: 0, steps: 0, tokens: 0, lossFirst: null, lossLast: null },
  ...{ diverged: false, trainSeconds: 0 },
}

/** Names of a track's test sets and, where they are wanted, of those far from both. */
function setNames(track: Track, far: boolean): string[] {
  return [...testSets[track], ...(far ? farSets : [])].map(({ name }) => name)
}

async function base({ track }: BaseCase, model: Model, context: CaseContext): Promise<Computed> {
  const { data, settings, signal } = context
  const how = { generate: true, signal }
  return {
    ...untrained,
    scores: await scoreSets(model, data.tests, setNames(track, true), settings, how),
  }
}

/** Optimizer steps of a track's training. */
export function trainingSteps(settings: StudySettings, track: Track, rows: number): number {
  const { batch, steps, epochs = 1 } = settings.training[track]
  return steps ?? Math.ceil(rows / batch) * epochs
}

async function trained(spec: TrainCase, model: Model, context: CaseContext): Promise<Computed> {
  const { settings, data, adapters } = context
  const { track, learningRate, seed, order } = spec
  const steps = trainingSteps(settings, track, data.train[track].length)
  const avoid =
    spec.avoid === undefined
      ? undefined
      : await Adapter.load(join(adapters, adapterFolder(spec.avoid)))
  const method = variantNamed(spec.variant, settings).method({
    ...{ config: model.config.native, settings, steps, seed, avoid },
  })
  await using trainer = new Trainer(model, {
    ...{ method, learningRate, seed: order, maxSteps: steps, warmupRatio: 0.1 },
    batchSize: settings.training[track].batch,
  })
  const progress = await fit(trainer, spec, context)
  if (progress.diverged) return { ...progress, scores: {} }
  try {
    const scores = await trainedScores(model, spec, context)
    if (spec.on !== 'validation' && keptVariants.includes(spec.variant)) {
      const adapter = await trainer.adapter()
      await adapter.save(join(adapters, adapterFolder(caseKey(spec))))
    }
    return { ...progress, scores }
  } catch (error) {
    if (!isNotFinite(error)) throw error
    return { ...progress, diverged: true, scores: {} }
  }
}

function isNotFinite(error: unknown): boolean {
  return error instanceof S2FTError && error.code === 'NOT_FINITE'
}

async function fit(
  trainer: Trainer,
  { track }: TrainCase,
  { data, signal }: CaseContext,
): Promise<Omit<Computed, 'scores'>> {
  const started = performance.now()
  const found: Omit<Computed, 'scores'> = { ...untrained }
  try {
    for await (const event of trainer.fit(data.train[track], signal ? { signal } : {})) {
      if (event.type === 'plan') found.trainable = event.trainableParameters
      if (event.type === 'step') {
        found.steps = event.step
        found.tokens += event.inputTokens
        found.lossFirst ??= event.loss
        found.lossLast = event.loss
      }
      if (event.type === 'interrupted') throw new S2FTError('CANCELLED', 'the study was stopped')
    }
  } catch (error) {
    if (!isNotFinite(error)) throw error
    found.diverged = true
  }
  return { ...found, trainSeconds: (performance.now() - started) / 1000 }
}

async function trainedScores(
  model: Model,
  { track, on }: TrainCase,
  { data, settings, signal }: CaseContext,
): Promise<CaseLine['scores']> {
  if (on === 'validation') {
    return { validation: { loss: await scoreLoss(model, data.validation[track], signal) } }
  }
  const whole = on === 'answers'
  const names = setNames(track, whole || settings.farOnVariations)
  return scoreSets(model, data.tests, names, settings, { generate: whole, signal })
}

async function fused(spec: FusionCase, model: Model, context: CaseContext): Promise<Computed> {
  const { data, settings, signal, adapters } = context
  for (const { weight, adapter } of spec.parts) {
    if (weight === 0) continue
    const loaded = await Adapter.load(join(adapters, adapterFolder(adapter)))
    await model.fuse(scaledAdapter(loaded, weight))
  }
  const names = tracks.flatMap((track) => testSets[track].map(({ name }) => name))
  const how = { generate: false, signal }
  const scores = await scoreSets(model, data.tests, names, settings, how)
  return { ...untrained, trainable: null, scores }
}
