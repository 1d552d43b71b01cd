// The one error class of the package; `code` is stable, `message` is for people.

/** Stable error codes. `USAGE` is a wrong call of the command line (exit status 2). */
export type ErrorCode =
  | 'USAGE'
  | 'INVALID_ARGUMENT'
  | 'INVALID_CONFIG'
  | 'UNSUPPORTED_MODEL'
  | 'UNSUPPORTED'
  | 'SHAPE_MISMATCH'
  | 'CORRUPT_FILE'
  | 'INVALID_DATA'
  | 'IO'
  | 'OUT_OF_MEMORY'
  | 'NOT_FINITE'
  | 'CANCELLED'
  | 'DISPOSED'
  | 'BUSY'
  | 'OVERLOADED'
  | 'ADAPTER_MISMATCH'
  | 'DEVICE_UNAVAILABLE'
  | 'NATIVE_LOAD'
  /** Another rank of the job failed, was lost, or did not answer. */
  | 'RANK_FAILED'
  | 'INTERNAL'

/** Thrown by every function of the package: what was expected, what was found, and where. */
export class S2FTError extends Error {
  readonly code: ErrorCode
  readonly details: Record<string, unknown> | undefined

  constructor(
    code: ErrorCode,
    message: string,
    options: { details?: Record<string, unknown>; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'S2FTError'
    this.code = code
    this.details = options.details
  }
}
