// Turns parts of quantized weights into f32 or bf16 tiles, whose owner then packs or
// multiplies them. An element is its code's level times its block's scale, rounded to the
// tile's type, so that every product sees the same weight.
#pragma once

#include "core/quantized.h"
#include "cpu/kernels/loops.h"

namespace s2ft::S2FT_ISA {

/// The scale of one block. In double, where the product is exact, so that fused and
/// separate instructions agree.
template <Quantization kKind>
S2FT_INLINE float block_scale(const QuantizedMat& w, int64_t block) {
  if (kKind == Quantization::int8) return w.scales[block];
  const double level = w.scale_levels[w.scale_codes[block]];
  return float(level * double(w.group_scales[block / kScaleGroup]) + double(w.offset));
}

/// kLanes bytes as integers.
S2FT_INLINE vi load_bytes(const uint8_t* p) {
#if defined(S2FT_AVX512)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return (vi)_mm512_maskz_cvtepu8_epi32(0xffff, bytes);
#elif defined(S2FT_AVX2)
  return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
  vi x{};
  for (int i = 0; i < kLanes; ++i) x[i] = p[i];
  return x;
#endif
}

/// NF4's level of each code.
S2FT_INLINE vf nf4_levels(vi codes) {
#if defined(S2FT_AVX512)
  return (vf)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)codes,
                                         _mm512_loadu_ps(kNf4Levels));
#elif defined(S2FT_AVX2)
  const __m256 low =
      _mm256_permutevar8x32_ps(_mm256_loadu_ps(kNf4Levels), (__m256i)codes);
  const __m256 high =
      _mm256_permutevar8x32_ps(_mm256_loadu_ps(kNf4Levels + 8), (__m256i)codes);
  // The sign bit chooses: bit 3 of the code moved there.
  return (vf)_mm256_blendv_ps(low, high, (__m256)(codes << 28));
#else
  vf x{};
  for (int i = 0; i < kLanes; ++i) x[i] = kNf4Levels[codes[i]];
  return x;
#endif
}

/// Elements [at, at + kLanes) of a block, `at` a multiple of kLanes, before scaling.
template <Quantization kKind>
S2FT_INLINE vf block_levels(const uint8_t* block, int64_t at) {
  if constexpr (kKind == Quantization::int8) {
    const vi bytes = load_bytes(block + at);
    return __builtin_convertvector((bytes << 24) >> 24, vf);
  } else {
    constexpr int64_t half = kQuantBlock / 2;
    const vi bytes = load_bytes(block + at % half);
    return nf4_levels(at < half ? bytes & 15 : bytes >> 4);
  }
}

/// y[0, end - begin) = elements [begin, end) of one block.
template <Quantization kKind, class T>
S2FT_INLINE void part_of_block(T* y, const uint8_t* codes, vf scale, int64_t begin,
                               int64_t end) {
  for (int64_t at = begin / kLanes * kLanes; at < end; at += kLanes) {
    const vf x = block_levels<kKind>(codes, at) * scale;
    if (at >= begin && at + kLanes <= end) {
      store_result(y + at - begin, x);
      continue;
    }
    if (at >= begin) {
      store_result(y + at - begin, x, int(end - at));
      continue;
    }
    T lead[kLanes];
    store_result(lead, x);
    for (int64_t i = begin; i < min_of(end, at + kLanes); ++i)
      y[i - begin] = lead[i - at];
  }
}

/// y[0, end - begin) = columns [begin, end) of one row.
template <Quantization kKind, class T>
S2FT_INLINE void dequantize_row(T* y, const QuantizedMat& w, int64_t row, int64_t begin,
                                int64_t end) {
  constexpr int64_t kBytes = kKind == Quantization::nf4 ? kQuantBlock / 2 : kQuantBlock;
  int64_t block = row * w.row_blocks() + begin / kQuantBlock;
  for (int64_t j = begin; j < end; ++block) {
    const int64_t first = j % kQuantBlock;
    const int64_t last = min_of(kQuantBlock, first + end - j);
    const uint8_t* codes = w.codes + block * kBytes;
    const vf scale = splat(block_scale<kKind>(w, block));
    if (last - first == kQuantBlock) {
#pragma GCC unroll 16
      for (int64_t at = 0; at < kQuantBlock; at += kLanes) {
        store_result(y + at, block_levels<kKind>(codes, at) * scale);
      }
    } else {
      part_of_block<kKind>(y, codes, scale, first, last);
    }
    y += last - first, j += last - first;
  }
}

template <class T>
S2FT_INLINE void dequantize_row(T* y, const QuantizedMat& w, int64_t row, int64_t begin,
                                int64_t end) {
  if (w.kind == Quantization::int8) {
    dequantize_row<Quantization::int8>(y, w, row, begin, end);
  } else {
    dequantize_row<Quantization::nf4>(y, w, row, begin, end);
  }
}

/// The first of an ascending index that is not below x.
S2FT_INLINE int64_t first_not_below(const Patch& patch, int64_t x) {
  int64_t low = 0, high = patch.count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (patch.index[middle] < x) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/// y (n, cols) = rows [row, row + n) and columns [col, col + cols) of one weight.
template <class T>
S2FT_INLINE void dequantize_piece(T* y, int64_t ldy, const QuantizedMat& w, int64_t row,
                                  int64_t n, int64_t col, int64_t cols) {
  const Patch& patch = w.patch;
  const T* values = patch.values.as<T>();
  if (patch.count == 0 || !patch.rows) {
    for (int64_t i = 0; i < n; ++i) {
      dequantize_row(y + i * ldy, w, row + i, col, col + cols);
    }
    if (patch.count == 0) return;
    const int64_t begin = first_not_below(patch, col);
    const int64_t end = first_not_below(patch, col + cols);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t k = begin; k < end; ++k) {
        y[i * ldy + patch.index[k] - col] =
            values[(row + i) * patch.values.ld + patch.place[k]];
      }
    }
    return;
  }
  int64_t next = first_not_below(patch, row);
  for (int64_t i = 0; i < n; ++i) {
    if (next < patch.count && patch.index[next] == row + i) {
      std::memcpy(y + i * ldy, values + patch.place[next++] * patch.values.ld + col,
                  size_t(cols) * sizeof(T));
    } else {
      dequantize_row(y + i * ldy, w, row + i, col, col + cols);
    }
  }
}

/// The same of weights below one another.
template <class T>
S2FT_INLINE void dequantize_tile(T* y, int64_t ldy, const QuantizedStack& w, int64_t row,
                                 int64_t n, int64_t col, int64_t cols) {
  for (int piece = 0; n > 0; row -= w.pieces[piece++].rows) {
    const int64_t here = min_of(n, w.pieces[piece].rows - row);
    if (here <= 0) continue;
    dequantize_piece(y, ldy, w.pieces[piece], row, here, col, cols);
    y += here * ldy, row += here, n -= here;
  }
}

}  // namespace s2ft::S2FT_ISA
