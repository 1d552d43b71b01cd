// The routes, and what holds for all of them: keys, limits, the shape of errors, counting.
import { randomUUID } from 'node:crypto'
import { Hono, type MiddlewareHandler } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { methodNotAllowed } from 'hono/method-not-allowed'
import { routePath } from 'hono/route'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import { loadAdapter, unloadAdapter } from './adapters.js'
import { checkLocalName, isLoopback, keyCheck } from './auth.js'
import { readJson } from './body.js'
import { planChat } from './chat-route.js'
import { planCompletion } from './completion-route.js'
import { respond } from './generation.js'
import { HttpError, stopping, toHttpError } from './http-error.js'
import { listModels, oneModel } from './models-route.js'
import type { ServeContext, ServeEnv, Service } from './service.js'

/** An error as the answer to its request; the server's own failures are told to its owner too. */
function refuse(c: ServeContext, error: unknown, service: Service): Response {
  const told = toHttpError(error)
  if (told.status === 500) service.settings.onError?.(error)
  return c.json(told.body(), told.status as ContentfulStatusCode, told.headers)
}

/** Counts a request when its answer has ended, however long it streamed. */
function count(c: ServeContext, { metrics }: Service): void {
  const { incoming, outgoing } = c.env
  outgoing.once('close', () => {
    const status = outgoing.writableFinished ? outgoing.statusCode : 499
    const path = routePath(c, -1).replace('{.+}', '')
    const route = path === '*' || path === '/*' ? 'none' : path
    metrics.httpRequests.inc({ route, method: incoming.method ?? '', status })
  })
}

export function createApp(service: Service): Hono<ServeEnv> {
  const { settings } = service
  const app = new Hono<ServeEnv>()
  const checkKey = keyCheck(settings.apiKeys)
  const localOnly = settings.apiKeys.length === 0 && isLoopback(settings.host)

  app.onError((error, c) => refuse(c, error, service))
  app.notFound((c) => {
    const message = `expected a route of this server, found ${c.req.method} ${c.req.path}`
    return refuse(c, new HttpError(404, message), service)
  })
  app.use(async (c, next) => {
    count(c, service)
    c.env.outgoing.setHeader('x-request-id', randomUUID())
    if (localOnly) checkLocalName(c.env.incoming.headers.host)
    if (c.req.path !== '/health') {
      checkKey(c.req.header('authorization'))
      if (service.stopping) throw stopping()
    }
    await next()
  })
  app.use(
    methodNotAllowed({
      app,
      onMethodNotAllowed: (c, methods) => {
        const expected = methods.join(' or ')
        const message = `${c.req.path}: expected ${expected}, found ${c.req.method}`
        const headers = { allow: methods.join(', ') }
        return refuse(c, new HttpError(405, message, { headers }), service)
      },
    }),
  )

  app.get('/health', (c) =>
    service.stopping ? c.json({ status: 'stopping' }, 503) : c.json({ status: 'ok' }),
  )
  app.get('/metrics', async (c) => {
    const { metrics, engine } = service
    return c.body(await metrics.text(engine), 200, { 'content-type': metrics.contentType })
  })
  app.get('/v1/models', (c) => c.json(listModels(service)))
  app.get('/v1/models/:id{.+}', (c) => c.json(oneModel(service, c.req.param('id'))))

  const maxSize = settings.maxBodyBytes
  const limitBody = bodyLimit({
    maxSize,
    onError: () => {
      throw new HttpError(413, `body: expected at most ${maxSize} bytes, found more`, {
        headers: { connection: 'close' },
      })
    },
  })
  // Node holds a body to the length it names; only others must be counted, which costs a copy.
  const limit: MiddlewareHandler<ServeEnv> = (c, next) => {
    const { 'content-length': length, 'transfer-encoding': coding } = c.env.incoming.headers
    return coding === undefined && Number(length ?? 0) <= maxSize ? next() : limitBody(c, next)
  }
  app.post('/v1/chat/completions', limit, async (c) => {
    const body = await readJson(c)
    return respond(c, service, () => planChat(service, body))
  })
  app.post('/v1/completions', limit, async (c) => {
    const body = await readJson(c)
    return respond(c, service, () => planCompletion(service, body))
  })
  app.post('/v1/load_lora_adapter', limit, async (c) =>
    c.text(await loadAdapter(service, await readJson(c))),
  )
  app.post('/v1/unload_lora_adapter', limit, async (c) =>
    c.text(await unloadAdapter(service, await readJson(c))),
  )
  return app
}
