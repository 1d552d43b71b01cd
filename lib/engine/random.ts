// A small seeded generator of uniform numbers; the same on every machine.

/** 53 bits in [0, 1), from a 64-bit counter hashed by SplitMix64. */
export class Random {
  private state: bigint

  /** `stream` separates sequences that share a seed. */
  constructor(seed: number, stream = 0) {
    this.state = mix(BigInt.asUintN(64, BigInt(seed)) + mix(BigInt(stream)))
  }

  next(): number {
    this.state = BigInt.asUintN(64, this.state + 0x9e3779b97f4a7c15n)
    return Number(mix(this.state) >> 11n) / 2 ** 53
  }
}

function mix(value: bigint): bigint {
  let z = BigInt.asUintN(64, value)
  z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n)
  z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn)
  return z ^ (z >> 31n)
}
