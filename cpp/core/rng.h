// Random numbers that are the same on every platform for the same seed: a sequential
// generator (xoshiro256**, seeded through splitmix64) and a counter-based hash.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/dtype.h"

namespace s2ft {

/// The splitmix64 step: advances `state` and returns 64 well-mixed bits.
S2FT_INLINE uint64_t splitmix64(uint64_t& state) {
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// 32 random bits as a pure function of (seed, index): what dropout keeps on every
/// device. Only 32-bit operations touch the index, so loops over it vectorise.
struct CounterHash {
  uint32_t key0, key1;

  S2FT_INLINE explicit CounterHash(uint64_t seed) {
    const uint64_t key = splitmix64(seed);
    key0 = uint32_t(key);
    key1 = uint32_t(key >> 32);
  }
  S2FT_INLINE static uint32_t mix(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
  }
  S2FT_INLINE uint32_t operator()(uint64_t index) const {
    const uint32_t low = uint32_t(index), high = uint32_t(index >> 32);
    return mix(mix(low ^ key0) ^ (high * 0x9e3779b9u) ^ key1);
  }
};

/// xoshiro256**: 256 bits of state, period 2^256 - 1. Copyable; `state` can be saved and
/// restored to continue a run bitwise.
class Rng {
 public:
  struct State {
    uint64_t s[4];
  };

  /// `stream` gives independent sequences under one seed (a layer, a worker).
  explicit Rng(uint64_t seed, uint64_t stream = 0) {
    uint64_t x = stream;
    x = seed ^ (stream ? splitmix64(x) : 0);
    for (uint64_t& s : state_.s) s = splitmix64(x);
  }
  explicit Rng(const State& state) : state_(state) {}
  const State& state() const { return state_; }

  uint64_t next() {
    uint64_t* s = state_.s;
    const uint64_t result = rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return result;
  }

  /// Uniform in [0, n), n > 0. Values that would favour small results are drawn again.
  uint64_t below(uint64_t n) {
    const uint64_t reject = (0 - n) % n;  // 2^64 mod n
    for (;;) {
      const uint64_t x = next();
      if (x >= reject) return x % n;
    }
  }

  /// Uniform in [0, 1), 24 random bits: every value is exact in a float.
  float uniform() { return float(next() >> 40) * 0x1p-24f; }
  /// Uniform in [0, 1), 53 random bits.
  double uniform_double() { return double(next() >> 11) * 0x1p-53; }
  /// Uniform in [low, high).
  float uniform(float low, float high) {
    const float x = std::fma(uniform(), high - low, low);
    return x < high ? x : low;
  }

  /// Mean 0, variance 1 (Marsaglia's polar method, one value a call).
  double normal() {
    for (;;) {
      const double u = 2 * uniform_double() - 1, v = 2 * uniform_double() - 1;
      const double s = std::fma(u, u, v * v);
      if (s > 0 && s < 1) return u * std::sqrt(-2 * log(s) / s);
    }
  }

  /// Fisher-Yates.
  template <class T>
  void shuffle(T* values, uint64_t n) {
    for (uint64_t i = n; i > 1; --i) {
      const uint64_t j = below(i);
      const T kept = values[i - 1];
      values[i - 1] = values[j];
      values[j] = kept;
    }
  }

 private:
  static uint64_t rotate(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

  // libm's log differs between platforms in the last bit; fma, division and square root
  // do not. x is a normal positive number; the error is below 1e-15 relative.
  static double log(double x) {
    int exponent;
    double m = std::frexp(x, &exponent);
    if (m < 0.70710678118654752) {
      m *= 2;
      --exponent;
    }
    const double r = (m - 1) / (m + 1), r2 = r * r;  // log m = 2 atanh r
    double sum = 0;
    for (int k = 23; k >= 1; k -= 2) sum = std::fma(sum, r2, 1.0 / k);
    return std::fma(double(exponent), 0.69314718055994531, 2 * r * sum);
  }

  State state_;
};

}  // namespace s2ft
