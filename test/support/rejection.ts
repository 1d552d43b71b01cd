// The error of a call that must fail.
import { Model, S2FTError } from '../../lib/index.js'

/** The S2FTError that `call` throws or rejects with; anything else fails the test. */
export async function rejection(call: () => unknown): Promise<S2FTError> {
  let result: unknown
  try {
    result = await call()
  } catch (error) {
    if (error instanceof S2FTError) return error
    throw new Error('expected an S2FTError', { cause: error })
  }
  throw new Error(`expected an S2FTError, but the call returned ${String(result)}`)
}

/** Why a model directory does not load; a model that loads after all is disposed of. */
export function loadRefusal(directory: string): Promise<S2FTError> {
  return rejection(async () => {
    const model = await Model.load(directory, { device: 'cpu', dtype: 'f32' })
    await model.dispose()
  })
}
