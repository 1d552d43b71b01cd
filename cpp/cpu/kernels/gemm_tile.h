// The register tile of the matrix product: a few rows of c times a few vectors of
// columns, summed over a packed panel of b and written where they belong, in the type of
// c. Owns nothing.
#pragma once

#include "cpu/kernels/micro_gemm.h"

namespace s2ft::S2FT_ISA {

// Sums, one row of the panel and one broadcast fit the registers; three vectors a row
// (48 columns with AVX-512) divide more layer widths than four.
#if defined(S2FT_AVX512) || defined(__aarch64__)
inline constexpr int kGemmRows = 8, kGemmVectors = 3;
#elif defined(S2FT_AVX2)
inline constexpr int kGemmRows = 6, kGemmVectors = 2;
#else
inline constexpr int kGemmRows = 4, kGemmVectors = 2;
#endif

/// Units of a block of the depth: a panel takes at most 288 KiB with AVX-512.
S2FT_INLINE int64_t depth_block(int64_t units) {
  constexpr int64_t kMost = 1536;
  return ceil_div(units, ceil_div(units, kMost));
}

/// Where a tile's sums go: c = sums + what `before` holds + (add) what c held.
template <class Out>
struct TileTarget {
  Out* c;
  int64_t ldc;
  const float* before;  // sums over earlier blocks of the depth, or null
  int64_t ld_before;
  bool add;
  int lanes;  // columns that exist in the last vector
};

template <class Out>
S2FT_INLINE void finish_vector(const TileTarget<Out>& to, int64_t i, int64_t column,
                               int lanes, vf x) {
  Out* c = to.c + i * to.ldc + column;
  if (lanes == kLanes) {
    if (to.before) x += load(to.before + i * to.ld_before + column);
    if (to.add) x += load(c);
    store_result(c, x);
  } else {
    if (to.before) x += load(to.before + i * to.ld_before + column, lanes);
    if (to.add) x += load(c, lanes);
    store_result(c, x, lanes);
  }
}

inline constexpr int64_t kLine = 64;  // bytes the processor fetches at once
// A burst of requests would hold up the loads behind it: two go out in so many units.
inline constexpr int64_t kFetchUnits = 8;

/// Memory to ask for while something else is computed: two lines at `next` and `second`
/// bytes behind it, `steps` times, `stride` bytes apart.
struct Ahead {
  const char* next;
  int64_t stride, second, steps;
};

S2FT_INLINE void fetch(Ahead& ahead) {
  __builtin_prefetch(ahead.next, 0, 2);
  __builtin_prefetch(ahead.next + ahead.second, 0, 2);
  ahead.next += ahead.stride;
}

/// Asks for what row i of a tile will be written to, so that the stores need not wait.
template <int kVectors, class Out>
S2FT_INLINE void fetch_target(const TileTarget<Out>& to, int64_t i) {
  constexpr int64_t kWidth = kVectors * kLanes, kStep = kLine / int64_t(sizeof(Out));
  const Out* c = to.c + i * to.ldc;
#pragma GCC unroll 4
  for (int64_t j = 0; j < kWidth; j += kStep) __builtin_prefetch(c + j, 1);
  __builtin_prefetch(c + kWidth - 1, 1);
}

/// Unit (i, k) of a lies at a[i * row + k * step]; b is a packed panel of kVectors
/// vectors a unit.
template <bool kDot, int kRows, int kVectors, class Out>
__attribute__((noinline)) void gemm_tile(const TileTarget<Out>& to,
                                         const float* __restrict a, int64_t row,
                                         int64_t step, const float* __restrict b,
                                         int64_t depth, Ahead ahead) {
  vf sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) sums[i][j] = vf{};
  }
  const float* rows[kRows];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) rows[i] = a + i * row;
  int64_t at = 0;
  for (int64_t k = 0, i = 0; k < depth; ++i) {
    const int64_t stop = min_of(k + kFetchUnits, depth);
    fetch(ahead);
    if (i < kRows) fetch_target<kVectors>(to, i);
    for (; k < stop; ++k) {
      vf right[kVectors];
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) right[j] = load(b + j * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        int32_t unit;
        std::memcpy(&unit, rows[i] + at, 4);
        const vf left = reinterpret_cast<vf>(splat(unit));
#pragma GCC unroll 8
        for (int j = 0; j < kVectors; ++j) {
          sums[i][j] = multiply_add<kDot>(left, right[j], sums[i][j]);
        }
      }
      at += step;
      b += kVectors * kLanes;
    }
  }
  if (!to.before && !to.add && to.lanes == kLanes) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) {
        store_result(to.c + i * to.ldc + j * kLanes, sums[i][j]);
      }
    }
    return;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      finish_vector(to, i, j * kLanes, j + 1 < kVectors ? kLanes : to.lanes, sums[i][j]);
    }
  }
}

template <bool kDot, int kRows, class Out>
S2FT_INLINE void gemm_vectors(int vectors, const TileTarget<Out>& to, const float* a,
                              int64_t row, int64_t step, const float* b, int64_t depth,
                              Ahead ahead) {
  if (vectors == 1) return gemm_tile<kDot, kRows, 1>(to, a, row, step, b, depth, ahead);
  if constexpr (kGemmVectors > 2) {
    if (vectors == 3) return gemm_tile<kDot, kRows, 3>(to, a, row, step, b, depth, ahead);
  }
  gemm_tile<kDot, kRows, 2>(to, a, row, step, b, depth, ahead);
}

/// `rows` rows of c against one panel: strips of kGemmRows, the rest in halves. Asks for
/// the lines of `ahead` on the way.
template <bool kDot, class Out>
S2FT_INLINE void gemm_panel(int64_t rows, int vectors, TileTarget<Out> to, const float* a,
                            int64_t row, int64_t step, const float* b, int64_t depth,
                            Ahead ahead) {
  const int64_t steps = ceil_div(depth, kFetchUnits);
  const auto advance = [&](int n) {
    to.c += n * to.ldc;
    if (to.before) to.before += n * to.ld_before;
    a += n * row;
    rows -= n;
  };
  for (; rows >= kGemmRows; advance(kGemmRows)) {
    // With nothing left to ask for, the panel itself, which is at hand, takes its place.
    if (ahead.steps <= 0) ahead = {reinterpret_cast<const char*>(b), 0, 0, 0};
    gemm_vectors<kDot, kGemmRows>(vectors, to, a, row, step, b, depth, ahead);
    ahead.next += steps * ahead.stride, ahead.steps -= steps;
  }
  if (rows >= 4) {
    gemm_vectors<kDot, 4>(vectors, to, a, row, step, b, depth, ahead);
    advance(4);
  }
  if (rows >= 2) {
    gemm_vectors<kDot, 2>(vectors, to, a, row, step, b, depth, ahead);
    advance(2);
  }
  if (rows >= 1) gemm_vectors<kDot, 1>(vectors, to, a, row, step, b, depth, ahead);
}

}  // namespace s2ft::S2FT_ISA
