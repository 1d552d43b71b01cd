// Element types and the conversions between their bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

// Kernel files are compiled once per instruction set. A plain inline function could be
// emitted by one of them and picked by the linker for all, so helpers are always inlined.
#define S2FT_INLINE inline __attribute__((always_inline))

namespace s2ft {

enum class DType : uint8_t { f32, bf16, f16, i32 };

S2FT_INLINE size_t dtype_size(DType t) {
  return t == DType::f32 || t == DType::i32 ? 4 : 2;
}

S2FT_INLINE const char* dtype_name(DType t) {
  switch (t) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "f16";
    case DType::i32:
      return "i32";
  }
  return "?";
}

/// The upper half of a float: 8 bits of exponent, 7 of mantissa.
struct bf16 {
  uint16_t bits;
};

S2FT_INLINE float to_float(bf16 x) {
  uint32_t u = uint32_t(x.bits) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
S2FT_INLINE float to_float(float x) {
  return x;
}

/// Rounds to nearest even; a NaN stays a (quiet) NaN.
S2FT_INLINE bf16 to_bf16(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return bf16{uint16_t((u >> 16) | 0x40)};
  return bf16{uint16_t((u + 0x7fffu + ((u >> 16) & 1)) >> 16)};
}

/// IEEE half to float, exact, subnormals included.
S2FT_INLINE float half_to_float(uint16_t h) {
  uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31,
           mantissa = h & 1023;
  uint32_t u;
  if (exponent == 31) {
    u = sign | 0x7f800000u | (mantissa << 13);
  } else if (exponent) {
    u = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {
    float f = float(mantissa) * 5.9604644775390625e-8f;  // 2^-24
    std::memcpy(&u, &f, 4);
    u |= sign;
  }
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

/// Float to IEEE half, round to nearest even; overflow becomes infinity.
S2FT_INLINE uint16_t float_to_half(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  uint16_t sign = uint16_t((u >> 16) & 0x8000);
  u &= 0x7fffffffu;
  if (u >= 0x47800000u) {
    if (u > 0x7f800000u) return uint16_t(sign | 0x7e00);
    return uint16_t(sign | 0x7c00);
  }
  if (u < 0x38800000u) {
    // Subnormal half: adding 0.5 lines the bits up and the FPU does the rounding.
    float a;
    std::memcpy(&a, &u, 4);
    a += 0.5f;
    uint32_t r;
    std::memcpy(&r, &a, 4);
    return uint16_t(sign | (r - 0x3f000000u));
  }
  u += 0xc8000fffu + ((u >> 13) & 1);
  return uint16_t(sign | (u >> 13));
}

}  // namespace s2ft
