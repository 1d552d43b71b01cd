// Vectors of the instruction set's natural width on GCC vector extensions: loads and
// stores of f32 and bf16 (whole and partial), fma, max, sums, exp. Everything is always
// inlined and lives in the instruction set's own namespace; the plain set has no x86
// intrinsics, so it is also what other processors (NEON) get.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/dtype.h"

#if defined(S2FT_ISA_avx512bf16)
#define S2FT_AVX512 1
#define S2FT_DOT_BF16 1
#elif defined(S2FT_ISA_avx512)
#define S2FT_AVX512 1
#elif defined(S2FT_ISA_avx2)
#define S2FT_AVX2 1
#endif
#if defined(S2FT_AVX512) || defined(S2FT_AVX2)
#include <immintrin.h>
#endif

namespace s2ft::S2FT_ISA {

/// Floats in a vector.
#if defined(S2FT_AVX512)
inline constexpr int kLanes = 16;
#elif defined(S2FT_AVX2)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

typedef float vf __attribute__((vector_size(kLanes * 4)));
typedef int32_t vi __attribute__((vector_size(kLanes * 4)));
typedef uint32_t vu __attribute__((vector_size(kLanes * 4)));
typedef uint16_t vh __attribute__((vector_size(kLanes * 2)));
typedef float vf_unaligned
    __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef uint16_t vh_unaligned
    __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));

S2FT_INLINE vf splat(float x) {
  return x - vf{};
}
S2FT_INLINE vi splat(int32_t x) {
  return x - vi{};
}
S2FT_INLINE vu bits(vf x) {
  return reinterpret_cast<vu>(x);
}
S2FT_INLINE vf from_bits(vu x) {
  return reinterpret_cast<vf>(x);
}

// -- sizes ----------------------------------------------------------------------------
S2FT_INLINE int round_up(int n, int multiple) {
  return (n + multiple - 1) / multiple * multiple;
}
S2FT_INLINE int64_t round_up_to_lanes(int64_t n) {
  return (n + kLanes - 1) / kLanes * kLanes;
}
S2FT_INLINE int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
S2FT_INLINE int64_t min_of(int64_t a, int64_t b) {
  return a < b ? a : b;
}
S2FT_INLINE int64_t max_of(int64_t a, int64_t b) {
  return a > b ? a : b;
}

// -- loads and stores ----------------------------------------------------------------
S2FT_INLINE vf load(const float* p) {
  return *reinterpret_cast<const vf_unaligned*>(p);
}
S2FT_INLINE void store(float* p, vf x) {
  *reinterpret_cast<vf_unaligned*>(p) = x;
}

/// The same bits as to_bf16 for every lane: nearest even, NaN stays a quiet NaN.
S2FT_INLINE vh narrow(vf x) {
  vu u = bits(x);
  vu rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  vu quiet = (u >> 16) | 0x40u;
  vu is_nan = reinterpret_cast<vu>((u & 0x7fffffffu) > 0x7f800000u);
  vu half = (is_nan & quiet) | (~is_nan & rounded);
#if defined(S2FT_AVX2)
  // GCC 12 takes the conversion apart lane by lane.
  __m256i packed = _mm256_packus_epi32((__m256i)half, (__m256i)half);
  return (vh)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
#else
  return __builtin_convertvector(half, vh);
#endif
}
S2FT_INLINE vf widen(vh x) {
  return from_bits(__builtin_convertvector(x, vu) << 16);
}
S2FT_INLINE vf load(const bf16* p) {
  return widen(*reinterpret_cast<const vh_unaligned*>(p));
}
S2FT_INLINE void store(bf16* p, vf x) {
  *reinterpret_cast<vh_unaligned*>(p) = narrow(x);
}

/// Only the first n lanes (0 <= n <= kLanes) touch memory; the others load as zero.
S2FT_INLINE vf load(const float* p, int n) {
#if defined(S2FT_AVX512)
  return (vf)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
#else
  vf x{};
  for (int i = 0; i < n; ++i) x[i] = p[i];
  return x;
#endif
}
S2FT_INLINE void store(float* p, vf x, int n) {
#if defined(S2FT_AVX512)
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)x);
#else
  for (int i = 0; i < n; ++i) p[i] = x[i];
#endif
}
S2FT_INLINE vf load(const bf16* p, int n) {
#if defined(S2FT_AVX512)
  return widen((vh)_mm256_maskz_loadu_epi16(__mmask16((1u << n) - 1), p));
#else
  vf x{};
  for (int i = 0; i < n; ++i) x[i] = to_float(p[i]);
  return x;
#endif
}
S2FT_INLINE void store(bf16* p, vf x, int n) {
#if defined(S2FT_AVX512)
  _mm256_mask_storeu_epi16(p, __mmask16((1u << n) - 1), (__m256i)narrow(x));
#else
  vh h = narrow(x);
  for (int i = 0; i < n; ++i) p[i].bits = h[i];
#endif
}

// -- arithmetic ----------------------------------------------------------------------
/// a * b + c, fused where the instruction set has it.
S2FT_INLINE vf fma(vf a, vf b, vf c) {
#if defined(S2FT_AVX512)
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(S2FT_AVX2)
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

/// a > b ? a : b, so a NaN in a gives b and a NaN in b stays.
S2FT_INLINE vf max(vf a, vf b) {
#if defined(S2FT_AVX512)
  return (vf)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
#elif defined(S2FT_AVX2)
  return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}
/// a < b ? a : b
S2FT_INLINE vf min(vf a, vf b) {
#if defined(S2FT_AVX512)
  return (vf)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b);
#elif defined(S2FT_AVX2)
  return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
  return a < b ? a : b;
#endif
}

/// 0, 1, 2, ...
#if defined(S2FT_AVX512)
inline constexpr vi kIota = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif defined(S2FT_AVX2)
inline constexpr vi kIota = {0, 1, 2, 3, 4, 5, 6, 7};
#else
inline constexpr vi kIota = {0, 1, 2, 3};
#endif

/// Lanes pairwise, always in the same order.
S2FT_INLINE float sum(vf x) {
#if defined(S2FT_AVX512)
  x += __builtin_shuffle(x, kIota ^ 8);
#endif
#if defined(S2FT_AVX512) || defined(S2FT_AVX2)
  x += __builtin_shuffle(x, kIota ^ 4);
#endif
  x += __builtin_shuffle(x, kIota ^ 2);
  x += __builtin_shuffle(x, kIota ^ 1);
  return x[0];
}
S2FT_INLINE float largest(vf x) {
#if defined(S2FT_AVX512)
  x = max(x, __builtin_shuffle(x, kIota ^ 8));
#endif
#if defined(S2FT_AVX512) || defined(S2FT_AVX2)
  x = max(x, __builtin_shuffle(x, kIota ^ 4));
#endif
  x = max(x, __builtin_shuffle(x, kIota ^ 2));
  x = max(x, __builtin_shuffle(x, kIota ^ 1));
  return x[0];
}

/// e^x within 2 ulp: 0 for -inf, subnormal results kept, inf past the largest float,
/// NaN for NaN.
S2FT_INLINE vf exp(vf x) {
  // 2^n e^r with |r| <= ln 2 / 2; adding 1.5 * 2^23 rounds to an integer. The constant
  // comes first in min and max, so that a NaN stays.
  const vf magic = splat(12582912.0f);
  x = max(splat(-104.0f), min(splat(89.0f), x));
  vf shifted = fma(x, splat(1.44269504088896341f), magic);
  vf n = shifted - magic;
  vf r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  vf p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r) + 1.0f;
#if defined(S2FT_AVX512)
  return (vf)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)n);
#else
  // Two factors, so that neither leaves the range of normal numbers.
  vi e = reinterpret_cast<vi>(shifted) - 0x4b400000;
  vi half = e >> 1;
  vf first = reinterpret_cast<vf>((half + 127) << 23);
  vf second = reinterpret_cast<vf>((e - half + 127) << 23);
  return p * first * second;
#endif
}

#if defined(S2FT_DOT_BF16)
inline constexpr bool kDotBf16 = true;

/// 2^x within 3e-6 of itself, for weights that are rounded to bf16: at most 2^128.
S2FT_INLINE vf exp2_for_bf16(vf x) {
  const vf n = (vf)_mm512_maskz_roundscale_ps(0xffff, (__m512)x, 8);
  const vf r = x - n;
  vf p = fma(splat(9.560510516e-3f), r, splat(5.591703951e-2f));
  p = fma(p, r, splat(2.402498126e-1f));
  p = fma(p, r, splat(6.931219697e-1f));
  p = fma(p, r, splat(9.999991655e-1f));
  return (vf)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)n);
}

/// acc + a0 b0 + a1 b1 in every lane, whose 32 bits are a pair of bf16.
S2FT_INLINE vf dot_pairs(vf acc, vf a, vf b) {
  return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
}
/// Nearest even, subnormals flushed: for values whose subnormals do not matter.
S2FT_INLINE vh narrow_fast(vf x) {
  return (vh)_mm512_cvtneps_pbh((__m512)x);
}
/// Two vectors rounded likewise, the first one's lanes in the lower half.
S2FT_INLINE __m512i narrow_both(vf x, vf y) {
  return (__m512i)_mm512_cvtne2ps_pbh((__m512)y, (__m512)x);
}
/// Lane j: elements j of the lower (its lower bits) and of the upper half.
S2FT_INLINE vf interleave_halves(__m512i halves) {
  const vi order = (kIota + 16) << 16 | kIota;
  return (vf)_mm512_maskz_permutexvar_epi16(~__mmask32(0), (__m512i)order, halves);
}
#else
inline constexpr bool kDotBf16 = false;
#endif

// -- results of sums -----------------------------------------------------------------
/// As store; where an instruction rounds to bf16, it may flush subnormals.
S2FT_INLINE void store_result(float* p, vf x) {
  store(p, x);
}
S2FT_INLINE void store_result(float* p, vf x, int n) {
  store(p, x, n);
}
S2FT_INLINE void store_result(bf16* p, vf x) {
#if defined(S2FT_DOT_BF16)
  *reinterpret_cast<vh_unaligned*>(p) = narrow_fast(x);
#else
  store(p, x);
#endif
}
S2FT_INLINE void store_result(bf16* p, vf x, int n) {
#if defined(S2FT_DOT_BF16)
  _mm256_mask_storeu_epi16(p, __mmask16((1u << n) - 1), (__m256i)narrow_fast(x));
#else
  store(p, x, n);
#endif
}

}  // namespace s2ft::S2FT_ISA
