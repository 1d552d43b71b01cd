// A request's body as a JSON object, or a clear refusal.
import { badRequest, HttpError } from './http-error.js'
import type { ServeContext } from './service.js'

const strict = new TextDecoder('utf-8', { fatal: true })

/** Throws 415 for another type than JSON, 400 for what is no JSON object. */
export async function readJson(c: ServeContext): Promise<Record<string, unknown>> {
  const type = c.req.header('content-type')
  const encoding = c.req.header('content-encoding') ?? 'identity'
  // Browsers send JSON to other sites only after asking; forms and plain text they send at once.
  if (!/^application\/json *(;|$)/i.test(type ?? '')) {
    const found = type === undefined ? 'none' : JSON.stringify(type)
    throw new HttpError(415, `content-type: expected application/json, found ${found}`)
  }
  if (encoding !== 'identity') {
    throw new HttpError(415, `content-encoding: expected none, found ${JSON.stringify(encoding)}`)
  }
  const bytes = await c.req.arrayBuffer()
  let value: unknown
  try {
    value = JSON.parse(strict.decode(bytes))
  } catch (error) {
    throw badRequest(`body: expected JSON: ${(error as Error).message}`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw badRequest('body: expected a JSON object')
  }
  return value as Record<string, unknown>
}
