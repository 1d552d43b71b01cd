// Refusals and failures as OpenAI's clients read them: { error: { message, type, param, code } }.
import { type ErrorCode, S2FTError } from '../errors.js'

export interface ErrorBody {
  error: { message: string; type: string; param: string | null; code: string | null }
}

interface Details {
  /** The request's field that is to blame. */
  param?: string | undefined
  code?: string
  headers?: Record<string, string>
  cause?: unknown
}

/** An error with the HTTP status that it is answered by. */
export class HttpError extends Error {
  readonly param: string | undefined
  readonly code: string | undefined
  readonly headers: Record<string, string>

  constructor(
    readonly status: number,
    message: string,
    details: Details = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.name = 'HttpError'
    this.param = details.param
    this.code = details.code
    this.headers = details.headers ?? {}
  }

  body(): ErrorBody {
    const type = this.status < 500 ? 'invalid_request_error' : 'server_error'
    const { message, param = null, code = null } = this
    return { error: { message, type, param, code } }
  }
}

/** A request that cannot be served as it is. */
export function badRequest(message: string, param?: string, code?: string): HttpError {
  return new HttpError(400, message, { param, ...(code !== undefined && { code }) })
}

export function modelNotFound(model: string): HttpError {
  return new HttpError(
    404,
    `model: expected one of GET /v1/models, found ${JSON.stringify(model)}`,
    {
      param: 'model',
      code: 'model_not_found',
    },
  )
}

/** Codes that blame the request. */
const refusals: ReadonlySet<ErrorCode> = new Set<ErrorCode>(['INVALID_ARGUMENT', 'INVALID_DATA'])

/** Any error as what the client is told. What is not the client's fault names no path and no stack. */
export function toHttpError(error: unknown): HttpError {
  if (error instanceof HttpError) return error
  if (error instanceof S2FTError) {
    if (refusals.has(error.code)) {
      const field = error.details?.field
      const param = typeof field === 'string' && field !== '' ? field : undefined
      return new HttpError(400, error.message, { param, cause: error })
    }
    // 503, as OpenAI's own: 429 would say that this client sends too much, which nobody knows.
    if (error.code === 'OVERLOADED') {
      const headers = { 'retry-after': '1' }
      return new HttpError(503, error.message, { code: 'overloaded', headers, cause: error })
    }
    if (error.code === 'DISPOSED' || error.code === 'CANCELLED') return stopping(error)
  }
  const code = error instanceof S2FTError ? error.code : 'INTERNAL'
  return new HttpError(500, `the server failed (${code}): its log tells more`, {
    code: code.toLowerCase(),
    cause: error,
  })
}

export function stopping(cause?: unknown): HttpError {
  return new HttpError(503, 'the server is stopping', { code: 'stopping', cause })
}
