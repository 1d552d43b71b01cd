// Small seeded generator for data order: the same numbers on every machine and Node version.

/**
 * xoshiro128** (Blackman and Vigna), its 128 bits of state filled by splitmix32 from the given
 * words. 32-bit arithmetic only, so that results do not depend on the platform.
 */
export class Random {
  private readonly state: Uint32Array

  /** Every further word (an epoch, a purpose) gives an independent stream. */
  constructor(...words: number[]) {
    let mix = 0x9e3779b9
    const next = () => {
      mix = (mix + 0x9e3779b9) | 0
      let z = mix
      z = Math.imul(z ^ (z >>> 16), 0x85ebca6b)
      z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35)
      return (z ^ (z >>> 16)) >>> 0
    }
    for (const word of words) {
      const high = Math.floor(word / 2 ** 32)
      mix = (mix ^ (word | 0)) | 0
      mix = next() ^ (high | 0)
      mix = next() | 0
    }
    this.state = Uint32Array.from([next(), next(), next(), next() | 1])
  }

  /** Uniform in [0, 2^32). */
  uint32(): number {
    const s = this.state
    const rotate = (x: number, k: number) => (x << k) | (x >>> (32 - k))
    const result = Math.imul(rotate(Math.imul(s[1]!, 5), 7), 9) >>> 0
    const t = s[1]! << 9
    s[2]! ^= s[0]!
    s[3]! ^= s[1]!
    s[1]! ^= s[2]!
    s[0]! ^= s[3]!
    s[2]! ^= t
    s[3] = rotate(s[3]!, 11)
    return result
  }

  /** Uniform integer in [0, bound), without modulo bias; bound is in [1, 2^32]. */
  below(bound: number): number {
    const limit = 2 ** 32 - (2 ** 32 % bound)
    for (;;) {
      const value = this.uint32()
      if (value < limit) return value % bound
    }
  }

  /** The numbers 0 .. count-1 in random order (Fisher-Yates). */
  permutation(count: number): Int32Array {
    const order = Int32Array.from({ length: count }, (_, i) => i)
    for (let i = count - 1; i > 0; i--) {
      const j = this.below(i + 1)
      const swapped = order[i]!
      order[i] = order[j]!
      order[j] = swapped
    }
    return order
  }
}
