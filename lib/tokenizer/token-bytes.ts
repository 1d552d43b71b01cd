// The bytes that a token stands for, whatever its neighbours: one character may be spread over
// several tokens, and decoding a token alone may lose its leading space.
import type { JsonObject } from './files.js'

/** Decoder steps of a tokenizer.json, sequences opened up. */
function steps(decoder: unknown): JsonObject[] {
  if (typeof decoder !== 'object' || decoder === null) return []
  const { type, decoders } = decoder as JsonObject
  if (type !== 'Sequence') return [decoder as JsonObject]
  return Array.isArray(decoders) ? decoders.flatMap(steps) : []
}

/** GPT-2's spelling: printable bytes stand for themselves, others for characters from U+0100. */
function byteAlphabet(): Map<string, number> {
  const alphabet = new Map<string, number>()
  let next = 0x100
  for (let byte = 0; byte < 256; byte++) {
    const printable =
      (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
    alphabet.set(String.fromCharCode(printable ? byte : next++), byte)
  }
  return alphabet
}

/** A function from a token's spelling in the vocabulary to its bytes, as `decoder` says. */
export function bytesOfSpelling(decoder: unknown): (spelling: string) => Uint8Array {
  const encoder = new TextEncoder()
  const list = steps(decoder)
  const types = new Set(list.map(({ type }) => type))
  if (types.has('ByteLevel')) {
    const alphabet = byteAlphabet()
    return (spelling) => {
      const bytes = Array.from(spelling, (character) => alphabet.get(character))
      // Characters that are no byte's: the vocabulary holds the text itself.
      if (bytes.includes(undefined)) return encoder.encode(spelling)
      return Uint8Array.from(bytes as number[])
    }
  }
  const replacing = list.some(
    ({ type, pattern }) =>
      type === 'Replace' && (pattern as { String?: unknown } | undefined)?.String === '▁',
  )
  const spaces = replacing || types.has('Metaspace')
  const fallback = types.has('ByteFallback')
  return (spelling) => {
    const byte = fallback ? /^<0x([0-9A-Fa-f]{2})>$/.exec(spelling)?.[1] : undefined
    if (byte !== undefined) return Uint8Array.of(Number.parseInt(byte, 16))
    return encoder.encode(spaces ? spelling.replaceAll('▁', ' ') : spelling)
  }
}
