// What all routes work on.
import type { HttpBindings } from '@hono/node-server'
import type { Context } from 'hono'
import type { EngineLike } from '../engine/engine-types.js'
import type { Tokenizer } from '../tokenizer/index.js'
import type { Encoder } from './encoder.js'
import type { Flights } from './flights.js'
import type { Metrics } from './metrics.js'
import type { ServeSettings } from './options.js'

/** The base model, as far as HTTP has to know it. */
export interface ServedModel {
  name: string
  tokenizer: Tokenizer
  /** Tokens of a prompt and its completion together. */
  contextLength: number
  vocabSize: number
}

export interface Service {
  engine: EngineLike
  model: ServedModel
  settings: ServeSettings
  metrics: Metrics
  encoder: Encoder
  flights: Flights
  /** Real path that adapters may be loaded from; undefined: loading is off. */
  adapterRoot: string | undefined
  /** Seconds since 1970 of the server's start, and of adapters' that were loaded by HTTP. */
  started: number
  loaded: Map<string, number>
  /** No new requests are taken. */
  stopping: boolean
}

export interface ServeEnv {
  Bindings: HttpBindings
}

/** A request on its way through the routes. */
export type ServeContext = Context<ServeEnv>
