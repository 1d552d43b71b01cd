// Copies blocks of f32 or bf16 matrices into the operands of micro_gemm.h: rows of 32-bit
// units, a float (bf16 is widened) or, with kDot, a pair of bf16 along the summed
// dimension (an odd end is paired with zero). Widths are padded with zeros to whole
// vectors; destinations are the caller's scratch.
#pragma once

#include "cpu/kernels/micro_gemm.h"

namespace s2ft::S2FT_ISA {

// Rows lie a whole activation row apart, which the processor does not foresee.
inline constexpr int64_t kRowsAhead = 8;

/// Units that `n` elements along the summed dimension take.
template <bool kDot>
S2FT_INLINE int64_t units(int64_t n) {
  return kDot ? (n + 1) / 2 : n;
}

/// Up to kLanes units of a row of `cols` elements, from unit `begin`; zeros past the end.
template <class T, bool kDot>
S2FT_INLINE vf load_units(const T* row, int64_t begin, int64_t cols) {
#if defined(S2FT_DOT_BF16)
  if constexpr (kDot) {
    int64_t left = cols - 2 * begin;
    if (left <= 0) return vf{};
    uint32_t mask = left >= 32 ? ~0u : (1u << left) - 1;
    return (vf)_mm512_maskz_loadu_epi16(mask, row + 2 * begin);
  }
#endif
  int64_t left = cols - begin;
  if (left >= kLanes) return load(row + begin);
  return left <= 0 ? vf{} : load(row + begin, int(left));
}

/// The same where all of them exist.
template <class T, bool kDot>
S2FT_INLINE vf load_all_units(const T* row, int64_t begin) {
#if defined(S2FT_DOT_BF16)
  if constexpr (kDot) return (vf)_mm512_loadu_si512(row + 2 * begin);
#endif
  return load(row + begin);
}

/// y (n, units of cols): unit (i, k) is x (i, k); the summed dimension runs along rows.
template <class T, bool kDot>
S2FT_INLINE void pack_rows(float* y, int64_t ldy, const T* x, int64_t ldx, int64_t n,
                           int64_t cols) {
  int64_t width = units<kDot>(cols);
  for (int64_t i = 0; i < n; ++i) {
    const T* ahead = x + min_of(i + kRowsAhead, n - 1) * ldx;
    for (int64_t k = 0; k < width; k += kLanes) {
      __builtin_prefetch(ahead + (kDot ? 2 * k : k));
      store(y + i * ldy + k, load_units<T, kDot>(x + i * ldx, k, cols));
    }
  }
}

#if defined(S2FT_DOT_BF16)
/// The pairs (x[j], y[j]) of kLanes columns.
S2FT_INLINE vf interleave(const bf16* x, const bf16* y) {
  const __m512i pair = _mm512_maskz_inserti64x4(
      0xff,
      _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x))),
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(y)), 1);
  return interleave_halves(pair);
}
#endif

/// y (units of n, cols): unit (k, j) is x (k, j); the summed dimension runs down columns.
template <class T, bool kDot>
S2FT_INLINE void pack_columns(float* y, int64_t ldy, const T* x, int64_t ldx, int64_t n,
                              int64_t cols) {
#if defined(S2FT_DOT_BF16)
  if constexpr (kDot) {
    for (int64_t i = 0; i < n; i += 2) {
      const bf16* ahead = x + min_of(i + kRowsAhead, n - 1) * ldx;
      for (int64_t j = 0; j < cols; j += kLanes) {
        int lanes = int(min_of(kLanes, cols - j));
        const bf16* from = x + i * ldx + j;
        __builtin_prefetch(ahead + j);
        __builtin_prefetch(ahead + (i + kRowsAhead + 1 < n ? ldx : 0) + j);
        if (lanes == kLanes && i + 1 < n) {
          store(y + i / 2 * ldy + j, interleave(from, from + ldx));
          continue;
        }
        // A widened bf16 has its bits in the upper half: the pair's second element.
        vu first = bits(load(from, lanes)) >> 16;
        vu second = i + 1 < n ? bits(load(from + ldx, lanes)) : vu{};
        store(y + i / 2 * ldy + j, from_bits(first | second));
      }
    }
    return;
  }
#endif
  pack_rows<T, false>(y, ldy, x, ldx, n, cols);
}

/// Transposes kLanes vectors in registers by swapping ever smaller blocks.
S2FT_INLINE void transpose(vf* x) {
#pragma GCC unroll 4
  for (int width = kLanes / 2; width; width /= 2) {
    vi in_upper = (kIota & width) != 0;  // lanes of the right-hand blocks
    vi low = (in_upper & (kIota - width + kLanes)) | (~in_upper & kIota);
    vi high = (in_upper & (kIota + kLanes)) | (~in_upper & (kIota + width));
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (i & width) continue;
      vf a = x[i], b = x[i + width];
      x[i] = __builtin_shuffle(a, b, low);
      x[i + width] = __builtin_shuffle(a, b, high);
    }
  }
}

/// y (units of cols, n): unit (k, j) is x (j, k); the summed dimension runs along x's
/// rows. Columns n .. round_up(n, kLanes) of y become zero.
template <class T, bool kDot>
S2FT_INLINE void pack_transposed(float* y, int64_t ldy, const T* x, int64_t ldx,
                                 int64_t n, int64_t cols) {
  int64_t width = units<kDot>(cols);
  for (int64_t j = 0; j < n; j += kLanes) {
    for (int64_t k = 0; k < width; k += kLanes) {
      for (int i = 0; i < kLanes; ++i) {
        __builtin_prefetch(x + min_of(j + kLanes + i, n - 1) * ldx + (kDot ? 2 * k : k));
      }
      vf block[kLanes];
      if (n - j >= kLanes && k + kLanes <= cols / (kDot ? 2 : 1)) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
          block[i] = load_all_units<T, kDot>(x + (j + i) * ldx, k);
        }
      } else if (n - j >= kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
          block[i] = load_units<T, kDot>(x + (j + i) * ldx, k, cols);
        }
      } else {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
          block[i] = j + i < n ? load_units<T, kDot>(x + (j + i) * ldx, k, cols) : vf{};
        }
      }
      transpose(block);
      int rows = int(min_of(kLanes, width - k));
      if (rows == kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(y + (k + i) * ldy + j, block[i]);
      } else {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
          if (i < rows) store(y + (k + i) * ldy + j, block[i]);
        }
      }
    }
  }
}

}  // namespace s2ft::S2FT_ISA
