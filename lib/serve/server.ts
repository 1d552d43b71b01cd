// An HTTP server over an engine: listens, and stops without losing requests that run. Owns the
// socket and the encoding thread; engine and model stay their owner's.
import { realpath, stat } from 'node:fs/promises'
import { createServer, type Server as HttpServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { getRequestListener } from '@hono/node-server'
import type { EngineLike } from '../engine/engine-types.js'
import { S2FTError } from '../errors.js'
import { createApp } from './app.js'
import { Encoder } from './encoder.js'
import { Flights } from './flights.js'
import { HttpError } from './http-error.js'
import { Metrics } from './metrics.js'
import { type ServeOptions, serveSettings } from './options.js'
import type { ServedModel, Service } from './service.js'

/** Seconds that a client has to send a request, and that an idle connection is kept. */
const RECEIVE = 60
const KEEP_ALIVE = 75
/** Seconds beyond the longest request after which a connection without any traffic is closed. */
const SILENT = 10

/** A listening server. */
export interface RunningServer {
  /** http://host:port, with the port that was taken. */
  readonly url: string
  readonly host: string
  readonly port: number
  /**
   * Takes no new requests, lets those that run finish within the grace period, ends the others.
   * Resolves when the last connection is closed.
   */
  stop(): Promise<void>
}

async function realRoot(path: string | undefined): Promise<string | undefined> {
  if (path === undefined) return undefined
  const found = await stat(path).catch(() => undefined)
  if (!found?.isDirectory()) {
    throw new S2FTError('IO', `adapterRoot: expected a directory at ${path}, found none`)
  }
  return realpath(path)
}

function listen(server: HttpServer, host: string, port: number): Promise<AddressInfo> {
  return new Promise((resolve, reject) => {
    server.once('error', (cause) => {
      const message = `could not listen on ${host} port ${port}: ${cause.message}`
      reject(new S2FTError('IO', message, { cause }))
    })
    server.listen(port, host, () => resolve(server.address() as AddressInfo))
  })
}

/** What is no HTTP at all, in the same shape as other refusals. */
function answerBrokenRequests(server: HttpServer): void {
  server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
    if (error.code === 'ECONNRESET' || !socket.writable) {
      socket.destroy()
      return
    }
    const [status, reason] =
      error.code === 'HPE_HEADER_OVERFLOW'
        ? [431, 'Request Header Fields Too Large']
        : error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
          ? [408, 'Request Timeout']
          : [400, 'Bad Request']
    const body = JSON.stringify(new HttpError(status as number, String(reason)).body())
    const head = `HTTP/1.1 ${status} ${reason}\r\nconnection: close\r\ncontent-type: application/json`
    socket.end(`${head}\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`)
  })
}

/** Starts a server. Throws INVALID_ARGUMENT for its options, IO for a port that is taken. */
export async function startServer(
  engine: EngineLike,
  model: ServedModel,
  options: ServeOptions = {},
): Promise<RunningServer> {
  const settings = serveSettings(options)
  if (engine.adapters().some(({ name }) => name === model.name)) {
    const message = `an adapter has the base model's name, ${JSON.stringify(model.name)}: choose another`
    throw new S2FTError('INVALID_ARGUMENT', message)
  }
  const service: Service = {
    ...{ engine, model, settings },
    metrics: new Metrics(),
    encoder: new Encoder(model.tokenizer, model.contextLength),
    flights: new Flights(settings.requestTimeout),
    adapterRoot: await realRoot(settings.adapterRoot),
    started: Math.floor(Date.now() / 1000),
    loaded: new Map(),
    stopping: false,
  }
  const app = createApp(service)
  const server = createServer(
    { requestTimeout: RECEIVE * 1000, keepAliveTimeout: KEEP_ALIVE * 1000 },
    getRequestListener(app.fetch, {
      // The framework would replace the process' own Request and Response.
      overrideGlobalObjects: false,
      // Health checks of HTTP/1.0 name none.
      hostname: 'localhost',
      errorHandler: (error) => {
        const message = (error as Error).message
        return Response.json(new HttpError(400, message).body(), { status: 400 })
      },
    }),
  )
  // A client that does not read its answer is silent for longer than any request may take.
  server.timeout = (settings.requestTimeout + SILENT) * 1000
  answerBrokenRequests(server)
  const address = await listen(server, settings.host, settings.port)
  const { port } = address
  const name = address.family === 'IPv6' ? `[${address.address}]` : address.address
  let stopped: Promise<void> | undefined
  return {
    url: `http://${name}:${port}`,
    ...{ host: settings.host, port },
    stop: () => (stopped ??= stop(service, server)),
  }
}

async function stop(service: Service, server: HttpServer): Promise<void> {
  service.stopping = true
  const closed = new Promise<void>((resolve) => server.close(() => resolve()))
  await service.flights.settled(service.settings.gracePeriod)
  service.flights.abortAll()
  // Connections become idle one by one as their last answers leave; a client that does not read
  // its answer does not hold up the end for long.
  const deadline = performance.now() + 2000
  let open = true
  void closed.then(() => {
    open = false
  })
  while (open && performance.now() < deadline) {
    server.closeIdleConnections()
    await sleep(10)
  }
  server.closeAllConnections()
  await closed
  await service.encoder.dispose()
}
