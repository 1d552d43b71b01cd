// The AVX-512 intrinsics that the kernels use, as plain code for machines without these
// instructions: CMake includes this file ahead of the kernels of <name>_test_avx512.
// Written after the operation sections of Intel's Software Developer's Manual; where the
// manual leaves bits open, they are the worst ones. Slow, and for tests only.
#pragma once

#include <immintrin.h>

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#if defined(__AVX512F__)
#error "emulating AVX-512 where the compiler has it hides the instructions themselves"
#endif

// Calls rather than copies: the kernels would take minutes to compile otherwise.
#define S2FT_EMULATED static inline
#define S2FT_EMULATED_CALL static inline __attribute__((noinline))

namespace s2ft::emulated {

/// The lanes of a vector register as an array, and back.
template <class T, int n>
struct Lanes {
  T at[n];
  template <class Vector>
  S2FT_EMULATED Lanes of(const Vector& x) {
    static_assert(sizeof(Vector) == sizeof(Lanes), "the lanes fill the register");
    Lanes lanes;
    std::memcpy(lanes.at, &x, sizeof x);
    return lanes;
  }
  template <class Vector>
  Vector as() const {
    static_assert(sizeof(Vector) == sizeof(Lanes), "the lanes fill the register");
    Vector x;
    std::memcpy(&x, at, sizeof x);
    return x;
  }
};
using Floats = Lanes<float, 16>;
using Halves = Lanes<uint16_t, 32>;

S2FT_EMULATED uint32_t bits_of(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}
S2FT_EMULATED float float_of(uint32_t u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

// -- loads and stores: masked-out elements are never touched --------------------------
template <class T, int n, class Vector>
S2FT_EMULATED_CALL Vector masked_load(uint32_t mask, const void* p) {
  Lanes<T, n> to{};
  for (int i = 0; i < n; ++i) {
    const char* from = static_cast<const char*>(p) + i * int(sizeof(T));
    if (mask >> i & 1) std::memcpy(&to.at[i], from, sizeof(T));
  }
  return to.template as<Vector>();
}
template <class T, int n, class Vector>
S2FT_EMULATED_CALL void masked_store(void* p, uint32_t mask, Vector x) {
  const auto from = Lanes<T, n>::of(x);
  for (int i = 0; i < n; ++i) {
    char* to = static_cast<char*>(p) + i * int(sizeof(T));
    if (mask >> i & 1) std::memcpy(to, &from.at[i], sizeof(T));
  }
}
S2FT_EMULATED __m512 load_floats(const void* p) {
  __m512 x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
S2FT_EMULATED __m512i load_integers(const void* p) {
  __m512i x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

// -- halves ---------------------------------------------------------------------------
S2FT_EMULATED __m512 join(__m256 low, __m256 high) {
  __m512 x;
  std::memcpy(&x, &low, sizeof low);
  std::memcpy(reinterpret_cast<char*>(&x) + sizeof low, &high, sizeof high);
  return x;
}
template <class Half, class Whole>
S2FT_EMULATED Half half_of(const Whole& x, int which) {
  Half half;
  std::memcpy(&half, reinterpret_cast<const char*>(&x) + which * sizeof half,
              sizeof half);
  return half;
}
/// The upper half is undefined.
S2FT_EMULATED __m512i widen_undefined(__m256i x) {
  __m512i y;
  std::memset(&y, 0xff, sizeof y);
  std::memcpy(&y, &x, sizeof x);
  return y;
}
S2FT_EMULATED_CALL __m256i extract(uint8_t mask, __m512i x, int which) {
  auto half = Lanes<uint64_t, 4>::of(half_of<__m256i>(x, which & 1));
  for (int i = 0; i < 4; ++i) half.at[i] *= mask >> i & 1;
  return half.as<__m256i>();
}
S2FT_EMULATED_CALL __m512i insert(uint8_t mask, __m512i x, __m256i half, int which) {
  std::memcpy(reinterpret_cast<char*>(&x) + (which & 1) * sizeof half, &half,
              sizeof half);
  auto y = Lanes<uint64_t, 8>::of(x);
  for (int i = 0; i < 8; ++i) y.at[i] *= mask >> i & 1;
  return y.as<__m512i>();
}

// -- arithmetic -----------------------------------------------------------------------
S2FT_EMULATED_CALL __m512 keep(uint32_t mask, __m512 x) {
  if (mask == 0xffff) return x;
  auto y = Floats::of(x);
  for (int i = 0; i < 16; ++i) y.at[i] = mask >> i & 1 ? y.at[i] : 0.0f;
  return y.as<__m512>();
}
/// Lane by lane what the 256-bit instruction does.
template <class F>
S2FT_EMULATED __m512 by_halves(F f) {
  return join(f(0), f(1));
}
S2FT_EMULATED __m512 multiply_add(__m512 a, __m512 b, __m512 c) {
  return by_halves([&](int i) {
    return _mm256_fmadd_ps(half_of<__m256>(a, i), half_of<__m256>(b, i),
                           half_of<__m256>(c, i));
  });
}
S2FT_EMULATED __m512 larger(uint16_t mask, __m512 a, __m512 b) {
  return keep(mask, by_halves([&](int i) {
                return _mm256_max_ps(half_of<__m256>(a, i), half_of<__m256>(b, i));
              }));
}
S2FT_EMULATED __m512 smaller(uint16_t mask, __m512 a, __m512 b) {
  return keep(mask, by_halves([&](int i) {
                return _mm256_min_ps(half_of<__m256>(a, i), half_of<__m256>(b, i));
              }));
}
/// Only immediate 8: to the nearest even integer, without exceptions.
template <int immediate>
S2FT_EMULATED __m512 round_scale(uint16_t mask, __m512 x) {
  static_assert(immediate == 8, "other roundings are not emulated");
  return keep(mask, by_halves([&](int i) {
                return _mm256_round_ps(half_of<__m256>(x, i),
                                       _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
              }));
}
/// a 2^floor(b), rounded once; a double holds every product that is no float's 0 or inf.
S2FT_EMULATED float scale_one(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return a + b;
  if (std::isinf(a) && std::isinf(b) && b < 0) return NAN;
  if (a == 0 && std::isinf(b) && b > 0) return NAN;
  const int n = int(std::floor(std::fmin(std::fmax(b, -400.0f), 400.0f)));
  const uint64_t power = uint64_t(n + 1023) << 52;
  double factor;
  std::memcpy(&factor, &power, 8);
  return float(double(a) * factor);
}
S2FT_EMULATED_CALL __m512 scale(uint16_t mask, __m512 a, __m512 b) {
  auto x = Floats::of(a);
  const auto y = Floats::of(b);
  for (int i = 0; i < 16; ++i) x.at[i] = scale_one(x.at[i], y.at[i]);
  return keep(mask, x.as<__m512>());
}
/// The manual promises a relative error below 2^-14: here nearly all of it is used.
S2FT_EMULATED_CALL __m512 reciprocal(uint16_t mask, __m512 x) {
  auto y = Floats::of(x);
  for (int i = 0; i < 16; ++i) {
    const float inverse = 1.0f / y.at[i];
    y.at[i] = std::isnormal(inverse) ? float_of(bits_of(inverse) & ~0x1ffu) : inverse;
  }
  return keep(mask, y.as<__m512>());
}

// -- integers and order ---------------------------------------------------------------
template <class T, class Vector>
S2FT_EMULATED_CALL __m512i extend(uint16_t mask, Vector x) {
  const auto from = Lanes<T, 16>::of(x);
  Lanes<uint32_t, 16> to;
  for (int i = 0; i < 16; ++i) to.at[i] = mask >> i & 1 ? from.at[i] : 0;
  return to.template as<__m512i>();
}
S2FT_EMULATED_CALL __m512 permute_floats(uint16_t mask, __m512i order, __m512 x) {
  const auto index = Lanes<uint32_t, 16>::of(order);
  const auto from = Floats::of(x);
  Floats to;
  for (int i = 0; i < 16; ++i) to.at[i] = from.at[index.at[i] & 15];
  return keep(mask, to.as<__m512>());
}
S2FT_EMULATED_CALL __m512i permute_halves(uint32_t mask, __m512i order, __m512i x) {
  const auto index = Halves::of(order), from = Halves::of(x);
  Halves to;
  for (int i = 0; i < 32; ++i) to.at[i] = mask >> i & 1 ? from.at[index.at[i] & 31] : 0;
  return to.as<__m512i>();
}

// -- bf16: always to nearest even, subnormals are zeros coming and going --------------
S2FT_EMULATED float flush(float x) {
  return std::fabs(x) < FLT_MIN ? std::copysign(0.0f, x) : x;
}
S2FT_EMULATED uint16_t narrow_one(float x) {
  const uint32_t u = bits_of(flush(x));
  if (std::isnan(x)) return uint16_t(u >> 16 | 0x40u);
  return uint16_t((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}
S2FT_EMULATED float widen_one(uint16_t x) {
  return flush(float_of(uint32_t(x) << 16));
}
S2FT_EMULATED_CALL __m256i narrow_vector(__m512 x) {
  const auto from = Floats::of(x);
  Lanes<uint16_t, 16> to;
  for (int i = 0; i < 16; ++i) to.at[i] = narrow_one(from.at[i]);
  return to.as<__m256i>();
}
/// b's lanes in the lower half.
S2FT_EMULATED_CALL __m512i narrow_two(__m512 a, __m512 b) {
  const auto low = Floats::of(b), high = Floats::of(a);
  Halves to;
  for (int i = 0; i < 16; ++i) {
    to.at[i] = narrow_one(low.at[i]);
    to.at[i + 16] = narrow_one(high.at[i]);
  }
  return to.as<__m512i>();
}
/// The pair's second product is added first; every step is fused and flushed.
S2FT_EMULATED_CALL __m512 dot(__m512 sum, __m512 a, __m512 b) {
  auto to = Floats::of(sum);
  const auto x = Halves::of(a), y = Halves::of(b);
  for (int i = 0; i < 16; ++i) to.at[i] = flush(to.at[i]);
  for (int second : {1, 0}) {
    Floats p, q;
    for (int i = 0; i < 16; ++i) {
      p.at[i] = widen_one(x.at[2 * i + second]);
      q.at[i] = widen_one(y.at[2 * i + second]);
    }
    to = Floats::of(multiply_add(p.as<__m512>(), q.as<__m512>(), to.as<__m512>()));
    for (int i = 0; i < 16; ++i) to.at[i] = flush(to.at[i]);
  }
  return to.as<__m512>();
}

}  // namespace s2ft::emulated

#define _mm512_loadu_ps s2ft::emulated::load_floats
#define _mm512_loadu_si512 s2ft::emulated::load_integers
#define _mm512_maskz_loadu_ps s2ft::emulated::masked_load<float, 16, __m512>
#define _mm512_maskz_loadu_epi16 s2ft::emulated::masked_load<uint16_t, 32, __m512i>
#define _mm256_maskz_loadu_epi16 s2ft::emulated::masked_load<uint16_t, 16, __m256i>
#define _mm512_mask_storeu_ps s2ft::emulated::masked_store<float, 16, __m512>
#define _mm256_mask_storeu_epi16 s2ft::emulated::masked_store<uint16_t, 16, __m256i>
#define _mm512_castsi256_si512 s2ft::emulated::widen_undefined
#define _mm512_maskz_extracti64x4_epi64 s2ft::emulated::extract
#define _mm512_maskz_inserti64x4 s2ft::emulated::insert
#define _mm512_fmadd_ps s2ft::emulated::multiply_add
#define _mm512_maskz_max_ps s2ft::emulated::larger
#define _mm512_maskz_min_ps s2ft::emulated::smaller
#define _mm512_maskz_roundscale_ps(mask, x, immediate) \
  s2ft::emulated::round_scale<immediate>(mask, x)
#define _mm512_maskz_scalef_ps s2ft::emulated::scale
#define _mm512_maskz_rcp14_ps s2ft::emulated::reciprocal
#define _mm512_maskz_cvtepu8_epi32 s2ft::emulated::extend<uint8_t>
#define _mm512_maskz_cvtepu16_epi32 s2ft::emulated::extend<uint16_t>
#define _mm512_maskz_permutexvar_ps s2ft::emulated::permute_floats
#define _mm512_maskz_permutexvar_epi16 s2ft::emulated::permute_halves
#define _mm512_cvtneps_pbh s2ft::emulated::narrow_vector
#define _mm512_cvtne2ps_pbh s2ft::emulated::narrow_two
#define _mm512_dpbf16_ps(sum, a, b) s2ft::emulated::dot(sum, (__m512)(a), (__m512)(b))
