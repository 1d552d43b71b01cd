// s2ft serve: many adapters over one base model by HTTP, until a signal.
import { basename, resolve } from 'node:path'
import { type Command, InvalidArgumentError } from 'commander'
import { S2FTError } from '../../errors.js'
import type { Quantization } from '../../native/binding.js'
import { type CommonOptions, makeCommand, quantizeOption, valued } from '../common.js'
import { interruptSignal } from '../load.js'
import { type Output, usage } from '../output.js'
import { byteCount, collect, integer, number } from '../parse.js'

interface NamedAdapter {
  name: string
  directory: string
}

interface Options {
  model: string
  quantize?: Quantization
  adapter?: NamedAdapter[]
  modelName?: string
  host: string
  port: number
  apiKey?: string[]
  adapterRoot?: string
  maxSequences: number
  maxBatchTokens: number
  maxQueue: number
  cacheMemory?: number
  adapterMemory: number
  prefixCache: boolean
  maxTokens?: number
  maxChoices: number
  maxBody: number
  requestTimeout: number
  gracePeriod: number
}

/** Gathers `NAME=DIR`. */
function namedAdapter(text: string, before: NamedAdapter[] | undefined): NamedAdapter[] {
  const at = text.indexOf('=')
  const [name, directory] = [text.slice(0, at), text.slice(at + 1)]
  if (at < 1 || directory === '') throw new InvalidArgumentError('expected <name>=<dir>')
  if (before?.some((other) => other.name === name)) {
    throw new InvalidArgumentError(`expected each name once, found ${name} twice`)
  }
  return [...(before ?? []), { name, directory }]
}

export function serveCommand(): Command {
  return makeCommand<Options>(
    'serve',
    "Serves a model and many adapters over it by HTTP, with OpenAI's routes.",
    (command) =>
      command
        .requiredOption('--model <dir>', 'base model: a Hugging Face directory')
        .addOption(
          valued('--adapter <name=dir>', 'an adapter, named as a model; repeatable', namedAdapter),
        )
        .option(
          '--model-name <name>',
          "what the base model is called (default: its directory's name)",
        )
        .addOption(quantizeOption())
        .option('--host <host>', 'address to listen on', '127.0.0.1')
        .addOption(
          valued(
            '--port <n>',
            'port to listen on; 0 takes a free one',
            integer({ min: 0, max: 65535 }),
            8080,
          ),
        )
        .addOption(
          valued(
            '--api-key <key>',
            'key that requests must carry, repeatable; also from S2FT_API_KEY',
            collect,
          ),
        )
        .option('--adapter-root <dir>', 'allow loading adapters by HTTP from below this directory')
        .addOption(
          valued('--max-sequences <n>', 'sequences decoded at once', integer({ min: 1 }), 64),
        )
        .addOption(valued('--max-batch-tokens <n>', 'tokens of one pass', integer({ min: 1 }), 512))
        .addOption(
          valued(
            '--max-queue <n>',
            'sequences that may wait; more are answered by 503',
            integer({ min: 0 }),
            1024,
          ),
        )
        .addOption(
          valued(
            '--cache-memory <size>',
            'of keys and values, e.g. 2GB (default: a quarter of what is free)',
            byteCount,
          ),
        )
        .addOption(
          valued('--adapter-memory <size>', 'of adapters in memory', byteCount, 1_000_000_000),
        )
        .option('--no-prefix-cache', 'compute equal beginnings of prompts every time')
        .addOption(
          valued(
            '--max-tokens <n>',
            'tokens that one choice may ask for (default: what the context holds)',
            integer({ min: 1 }),
          ),
        )
        .addOption(
          valued('--max-choices <n>', 'prompts times n of a request', integer({ min: 1 }), 128),
        )
        .addOption(valued('--max-body <size>', "of a request's body", byteCount, 8_000_000))
        .addOption(
          valued(
            '--request-timeout <s>',
            "seconds from a request's arrival to its last token",
            number({ above: 0, max: 86400 }),
            600,
          ),
        )
        .addOption(
          valued(
            '--grace-period <s>',
            'seconds that running requests may take to finish at the end',
            number({ min: 0, max: 86400 }),
            30,
          ),
        ),
    run,
  )
}

/** Keys on the command line can be read by other users of the machine; the variable cannot. */
function apiKeys(given: readonly string[] = []): string[] {
  const variable = process.env.S2FT_API_KEY
  const keys = [...given, ...(variable === undefined ? [] : [variable])]
  for (const key of keys) {
    if (!/^[\x21-\x7e]+$/.test(key)) {
      throw usage(
        "option '--api-key' (or S2FT_API_KEY): expected visible ASCII characters, " +
          (key === '' ? 'found none' : 'found others'),
      )
    }
  }
  return keys
}

function describe(error: unknown): string {
  const code = error instanceof S2FTError ? error.code : 'INTERNAL'
  return `s2ft serve: error [${code}] ${error instanceof Error ? error.message : String(error)}`
}

async function run(options: Options & CommonOptions, out: Output): Promise<void> {
  const keys = apiKeys(options.apiKey)
  const name = options.modelName ?? basename(resolve(options.model))
  const added = options.adapter ?? []
  if (added.some((adapter) => adapter.name === name)) {
    throw usage(`option '--adapter': ${name} is the base model's name: choose another`)
  }
  const { Engine, Model, serve } = await import('../../index.js')
  const { isLoopback } = await import('../../serve/auth.js')
  const { device, dtype, threads, arithmetic, quantize = 'none' } = options
  await using model = await Model.load(options.model, {
    ...{ device, dtype, threads, arithmetic, quantize },
  })
  const { maxSequences, maxBatchTokens, maxQueue, cacheMemory } = options
  await using engine = await Engine.create(model, {
    ...{ maxSequences, maxBatchTokens, maxQueue, adapterMemory: options.adapterMemory },
    ...(cacheMemory !== undefined && { cacheMemory }),
    prefixCache: options.prefixCache,
  })
  for (const adapter of added) await engine.addAdapter(adapter.name, adapter.directory)
  const { host, port, adapterRoot, maxTokens, maxChoices, requestTimeout, gracePeriod } = options
  const server = await serve(engine, {
    ...{ host, port, modelName: name, apiKeys: keys, maxBodyBytes: options.maxBody },
    ...{ maxChoices, requestTimeout, gracePeriod },
    ...(adapterRoot !== undefined && { adapterRoot }),
    ...(maxTokens !== undefined && { maxTokens }),
    onError: (error) => out.note(describe(error)),
  })
  if (keys.length === 0 && !isLoopback(host)) {
    out.note(`warning: anyone who reaches ${server.url} may use it: set --api-key or S2FT_API_KEY`)
  }
  const names = added.map((adapter) => adapter.name)
  const { contextLength } = engine
  out.event({
    ...{ type: 'listening', url: server.url, host, port: server.port, model: name },
    ...{ adapters: names, contextLength, pages: engine.stats().pages.total },
  })
  out.line(`listening on ${server.url}: ${[name, ...names].join(', ')}`)
  // The second signal ends the process at once.
  await new Promise<void>((asked) => interruptSignal(asked))
  const { running, waiting } = engine.stats()
  out.event({ type: 'stopping', running, waiting })
  out.line(`stopping: ${running + waiting} sequences to finish`)
  await server.stop()
  out.event({ type: 'stopped' })
}
