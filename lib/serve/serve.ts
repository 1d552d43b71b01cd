// From an engine to a server: what HTTP has to know of its model.
import { basename, resolve } from 'node:path'
import type { Engine } from '../engine/engine.js'
import type { ServeOptions } from './options.js'
import { type RunningServer, startServer } from './server.js'

/**
 * Serves an engine by HTTP, with OpenAI's routes. Adapters that are added to the engine, before or
 * after, can be named as models. The engine stays its owner's: stop() does not dispose of it.
 * Throws INVALID_ARGUMENT for a bad option or an adapter with the base model's name, IO without a
 * tokenizer and for a port that is taken.
 */
export async function serve(engine: Engine, options: ServeOptions = {}): Promise<RunningServer> {
  const { model, contextLength } = engine
  const name = options.modelName ?? basename(resolve(model.directory))
  const { vocabSize } = model.config.native
  const tokenizer = await model.tokenizer()
  return startServer(engine, { name, tokenizer, contextLength, vocabSize }, options)
}
