// Runs sequences to their ends, so many at a time, with a decoder of their own.
import type { GenerateEvent } from '../model/types.js'
import type { NativeModel } from '../native/binding.js'
import { Job } from './job.js'
import { Scheduler } from './scheduler.js'
import type { Sequence } from './sequence.js'

const PAGE_TOKENS = 32
/** Tokens of a pass: a long prompt goes through in pieces, so that activations stay small. */
const PASS_TOKENS = 512

export interface DecodeEvent extends GenerateEvent {
  sequence: Sequence
}

/**
 * Decodes every sequence to its end, at most `slots` at a time. Yields each sampled token as it
 * comes. The decoder lives as long as the iteration. An abort ends all sequences.
 */
export async function* decode(
  model: NativeModel,
  sequences: readonly Sequence[],
  slots: number,
  signal?: AbortSignal,
): AsyncGenerator<DecodeEvent, void> {
  if (sequences.length === 0) return
  const maxSequences = Math.min(slots, sequences.length)
  const longest = Math.max(...sequences.map((sequence) => sequence.capacity))
  const pages = maxSequences * Math.ceil(longest / PAGE_TOKENS)
  const decoder = await model.createDecoder(pages, PAGE_TOKENS)
  const scheduler = new Scheduler(decoder, {
    ...{ pages, pageTokens: PAGE_TOKENS, maxSequences, prefixCache: false },
    maxBatchTokens: Math.max(PASS_TOKENS, maxSequences),
  })
  const events: DecodeEvent[] = []
  let failure: { error: unknown } | undefined
  try {
    for (const sequence of sequences) {
      scheduler.submit(
        new Job({
          sequence,
          onToken: ({ token, text, logProb }) => events.push({ token, text, logProb, sequence }),
          onEnd: (error) => {
            if (error !== undefined) failure ??= { error }
          },
        }),
      )
    }
    while (scheduler.busy && !signal?.aborted) {
      await scheduler.step()
      yield* events.splice(0)
      if (failure) throw failure.error
    }
    for (const sequence of sequences) if (!sequence.finished) sequence.abort()
  } finally {
    await decoder.dispose()
  }
}
