// Checked settings of the server.
import { z } from 'zod'
import { validate } from '../model/validate.js'

export interface ServeOptions {
  /** Default '127.0.0.1': this machine only. */
  host?: string
  /** Default 8080; 0 takes any free port. */
  port?: number
  /** Requests must carry one of these as `Authorization: Bearer`. Default: none is asked for. */
  apiKeys?: readonly string[]
  /** Adapters may be loaded by HTTP from below this directory; default: not at all. */
  adapterRoot?: string
  /** What requests call the base model; default: the name of its directory. */
  modelName?: string
  /** Of a request's body; default 8 MB. */
  maxBodyBytes?: number
  /** Tokens that one choice may ask for; default: what the context holds. */
  maxTokens?: number
  /** Prompts times `n` of one request; default 128. */
  maxChoices?: number
  /** Seconds from a request's arrival to its last token; default 600. */
  requestTimeout?: number
  /** Seconds that running requests may take to finish when the server stops; default 30. */
  gracePeriod?: number
  /** Told of every failure that is not the client's fault. */
  onError?: (error: unknown) => void
}

const seconds = z.number().positive().max(86_400)
const schema = z.strictObject({
  host: z.string().min(1).default('127.0.0.1'),
  port: z.number().int().min(0).max(65_535).default(8080),
  apiKeys: z
    .array(
      z.string().regex(/^[\x21-\x7e]+$/, { error: 'expected a key of visible ASCII characters' }),
    )
    .default([]),
  adapterRoot: z.string().min(1).optional(),
  modelName: z.string().min(1).optional(),
  maxBodyBytes: z.number().int().positive().default(8_000_000),
  maxTokens: z.number().int().positive().optional(),
  maxChoices: z.number().int().positive().default(128),
  requestTimeout: seconds.default(600),
  gracePeriod: z.number().nonnegative().max(86_400).default(30),
  onError: z.custom<(error: unknown) => void>((value) => typeof value === 'function').optional(),
})

export type ServeSettings = z.infer<typeof schema>

/** Throws INVALID_ARGUMENT naming the option. */
export function serveSettings(options: unknown): ServeSettings {
  return validate(schema, options ?? {}, 'serve options')
}
