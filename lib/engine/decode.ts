// Runs sequences through a native decoder, refilling its slots as sequences finish.
import type { GenerateEvent } from '../model/types.js'
import type { NativeModel } from '../native/binding.js'
import type { Sequence } from './sequence.js'

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
  const count = Math.min(slots, sequences.length)
  const capacity = Math.max(...sequences.map((sequence) => sequence.capacity))
  const decoder = await model.createDecoder(count, capacity)
  try {
    const running = new Array<Sequence | undefined>(count)
    let next = 0
    while (!signal?.aborted) {
      for (let slot = 0; slot < count && next < sequences.length; slot++) {
        if (!running[slot]) running[slot] = sequences[next++]
      }
      const active = running.flatMap((sequence, slot) => (sequence ? [{ sequence, slot }] : []))
      if (active.length === 0) return
      const sampled = await decoder.append(
        active.map(({ sequence, slot }) => ({
          slot,
          tokens: sequence.pending,
          sampling: sequence.sampling(),
        })),
      )
      for (const [row, { sequence, slot }] of active.entries()) {
        const event = sequence.accept(sampled[row]!)
        if (sequence.finished) {
          await decoder.reset(slot)
          running[slot] = undefined
        }
        yield { ...event, sequence }
      }
    }
    for (const sequence of sequences) if (!sequence.finished) sequence.abort()
  } finally {
    await decoder.dispose()
  }
}
