// Register-blocked products of small tiles, shared by gemm and attention. Operands are
// made of 32-bit units: a float, or (kDot) a pair of bf16 that are neighbours along the
// summed dimension. Reads a and b, writes or adds to c; owns nothing.
#pragma once

#include "cpu/kernels/simd.h"

namespace s2ft::S2FT_ISA {

// The largest block of sums whose vectors, with one row of b, fit the registers.
#if defined(S2FT_AVX512) || defined(__aarch64__)
inline constexpr int kTileRows = 6, kTileVectors = 4;
#elif defined(S2FT_AVX2)
inline constexpr int kTileRows = 6, kTileVectors = 2;
#else
inline constexpr int kTileRows = 4, kTileVectors = 2;
#endif

template <bool kDot>
S2FT_INLINE vf multiply_add(vf a, vf b, vf c) {
#if defined(S2FT_DOT_BF16)
  if constexpr (kDot) return dot_pairs(c, a, b);
#endif
  return fma(a, b, c);
}

/// c (kRows, kVectors * kLanes) = or += a b. Unit (i, k) of a lies at a[i * row + k *
/// step], unit (k, j) of b at b[k * ldb + j].
template <bool kDot, int kRows, int kVectors>
__attribute__((noinline)) void micro_product(float* __restrict c, int64_t ldc, bool add,
                                             const float* __restrict a, int64_t row,
                                             int64_t step, const float* __restrict b,
                                             int64_t ldb, int64_t depth) {
  vf sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) sums[i][j] = vf{};
  }
  const float* rows[kRows];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) rows[i] = a + i * row;
  for (int64_t k = 0; k < depth; ++k) {
    vf right[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) right[j] = load(b + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      int32_t unit;
      std::memcpy(&unit, rows[i] + k * step, 4);
      vf left = reinterpret_cast<vf>(splat(unit));
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) {
        sums[i][j] = multiply_add<kDot>(left, right[j], sums[i][j]);
      }
    }
    b += ldb;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      float* to = c + i * ldc + j * kLanes;
      store(to, add ? load(to) + sums[i][j] : sums[i][j]);
    }
  }
}

template <bool kDot, int kRows>
S2FT_INLINE void micro_vectors(int vectors, float* c, int64_t ldc, bool add,
                               const float* a, int64_t row, int64_t step, const float* b,
                               int64_t ldb, int64_t depth) {
  switch (vectors) {
    case 1:
      return micro_product<kDot, kRows, 1>(c, ldc, add, a, row, step, b, ldb, depth);
    case 2:
      return micro_product<kDot, kRows, 2>(c, ldc, add, a, row, step, b, ldb, depth);
  }
  if constexpr (kTileVectors > 2) {
    if (vectors == 3) {
      return micro_product<kDot, kRows, 3>(c, ldc, add, a, row, step, b, ldb, depth);
    }
    return micro_product<kDot, kRows, 4>(c, ldc, add, a, row, step, b, ldb, depth);
  }
}

/// One strip of at most kTileRows rows: c (rows, vectors * kLanes) = or += a b.
template <bool kDot>
S2FT_INLINE void strip_product(int rows, int vectors, float* c, int64_t ldc, bool add,
                               const float* a, int64_t row, int64_t step, const float* b,
                               int64_t ldb, int64_t depth) {
  while (vectors > 0) {
    // Even shares keep every call wide enough to hide the latency of the sums.
    int calls = (vectors + kTileVectors - 1) / kTileVectors;
    int now = (vectors + calls - 1) / calls;
    switch (rows) {
      case 1:
        micro_vectors<kDot, 1>(now, c, ldc, add, a, row, step, b, ldb, depth);
        break;
      case 2:
        micro_vectors<kDot, 2>(now, c, ldc, add, a, row, step, b, ldb, depth);
        break;
      case 3:
        micro_vectors<kDot, 3>(now, c, ldc, add, a, row, step, b, ldb, depth);
        break;
      case 4:
        micro_vectors<kDot, 4>(now, c, ldc, add, a, row, step, b, ldb, depth);
        break;
      default:
        if constexpr (kTileRows > 4) {
          if (rows == 5) {
            micro_vectors<kDot, 5>(now, c, ldc, add, a, row, step, b, ldb, depth);
          } else {
            micro_vectors<kDot, 6>(now, c, ldc, add, a, row, step, b, ldb, depth);
          }
        }
    }
    c += now * kLanes;
    b += now * kLanes;
    vectors -= now;
  }
}

}  // namespace s2ft::S2FT_ISA
