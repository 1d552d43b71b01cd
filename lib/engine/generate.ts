// Generation over a model alone: sequences of one call, with settings of their own.
import type { Model } from '../model/model.js'
import type {
  GenerateBatchOptions,
  GenerateEvent,
  GenerateOptions,
  GenerateResult,
  Prompt,
} from '../model/types.js'
import { decode } from './decode.js'
import { type GenerateSettings, generateBatchSettings, generateSettings } from './options.js'
import { Prompts } from './prompts.js'
import { Sequence } from './sequence.js'

async function sequences(
  model: Model,
  given: readonly Prompt[],
  settings: GenerateSettings,
): Promise<Sequence[]> {
  const prompts = await Prompts.of(model)
  const ends = prompts.ends(settings.stopTokenIds)
  const all: Sequence[] = []
  for (const [index, prompt] of given.entries()) {
    const tokens = await prompts.tokens(prompt)
    const stream = await prompts.stream(settings.stop)
    all.push(new Sequence(index, tokens, settings, ends, stream))
  }
  return all
}

export async function* generateTokens(
  model: Model,
  prompt: Prompt,
  options: GenerateOptions,
): AsyncGenerator<GenerateEvent, GenerateResult> {
  const settings = generateSettings(options)
  const handle = model.native()
  const [sequence] = await sequences(model, [prompt], settings)
  for await (const { token, text, logProb } of decode(handle, [sequence!], 1, settings.signal)) {
    yield { token, text, logProb }
  }
  return sequence!.result()
}

export async function generateBatchTexts(
  model: Model,
  prompts: readonly Prompt[],
  options: GenerateBatchOptions,
): Promise<GenerateResult[]> {
  const { slots, ...settings } = generateBatchSettings(options)
  const handle = model.native()
  const all = await sequences(model, prompts, settings)
  for await (const { sequence } of decode(handle, all, slots, settings.signal)) {
    if (sequence.finished) options.onResult?.(sequence.index, sequence.result())
  }
  return all.map((sequence) => sequence.result())
}
