// Frozen weights stored in 8 or 4 bits. Views that own nothing: codes in blocks along a
// row, the scale of every block, and rows or columns that are kept in full precision.
#pragma once

#include "core/tensor.h"

namespace s2ft {

/// int8: symmetric, an f32 scale for every block. nf4: the 16 quantiles of a normal
/// distribution (QLoRA, section 3), the scales themselves in 8 bits (double
/// quantization).
enum class Quantization : uint8_t { none, int8, nf4 };

inline constexpr int64_t kQuantBlock = 64;   // elements of a row that share a scale
inline constexpr int64_t kScaleGroup = 256;  // nf4: scales that share a scale of theirs

/// NF4's code i stands for level i times the block's scale (QLoRA, appendix E).
inline constexpr float kNf4Levels[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

/// Rows or columns of a quantized weight that products read in full precision instead of
/// what is quantized there: S2FT's slices.
struct Patch {
  Mat values;                      // rows: [count, cols]; columns: [rows, count]
  const int32_t* index = nullptr;  // [count] ascending, host memory
  const int32_t* place = nullptr;  // [count] which row or column of `values` each one is
  int64_t count = 0;
  bool rows = true;
};

/// A rows x cols weight, one row of whole blocks after the other; the last block of a row
/// is filled up with zeros.
struct QuantizedMat {
  Quantization kind = Quantization::none;
  int64_t rows = 0, cols = 0;
  /// int8: 64 bytes a block. nf4: 32; byte i has element i in its lower four bits and
  /// element i + 32 in its upper ones.
  const uint8_t* codes = nullptr;
  const float* scales = nullptr;         // int8: [blocks]
  const uint8_t* scale_codes = nullptr;  // nf4: [blocks]
  const float* group_scales = nullptr;   // nf4: [groups of blocks]
  const float* scale_levels = nullptr;   // nf4: [256], what a scale's code stands for
  float offset = 0;  // nf4: mean of the scales, taken off before coding
  Patch patch;

  S2FT_INLINE int64_t row_blocks() const {
    return (cols + kQuantBlock - 1) / kQuantBlock;
  }
  S2FT_INLINE int64_t blocks() const { return rows * row_blocks(); }
  S2FT_INLINE int64_t groups() const {
    return (blocks() + kScaleGroup - 1) / kScaleGroup;
  }
  S2FT_INLINE int64_t block_bytes() const {
    return kind == Quantization::nf4 ? kQuantBlock / 2 : kQuantBlock;
  }
};

/// Quantized weights of one width, one below the other: layers that share their input.
struct QuantizedStack {
  const QuantizedMat* pieces = nullptr;
  int count = 0;

  S2FT_INLINE int64_t cols() const { return pieces[0].cols; }
  S2FT_INLINE int64_t rows() const {
    int64_t n = 0;
    for (int i = 0; i < count; ++i) n += pieces[i].rows;
    return n;
  }
};

}  // namespace s2ft
