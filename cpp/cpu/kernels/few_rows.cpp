// Products of a few rows with a linear layer's weight, as decoding makes them: every row
// of the weight is read once, and its elements change places in registers, or where its
// ends are no whole vectors in a piece that stays in the first-level cache. Sums have the
// order of gemm.cpp's, so that a row of the result does not depend on how many there are.
// Rows of a quantized weight become numbers just before.
#include <omp.h>

#include "cpu/kernels/dequantize.h"
#include "cpu/kernels/gemm_tile.h"
#include "cpu/kernels/loops.h"
#include "cpu/kernels/ops.h"
#include "cpu/kernels/tile_pack.h"

namespace s2ft::S2FT_ISA {

namespace {

constexpr int kMostRows = 8;
// Rows of the weight that are packed side by side, and units of the depth at a time.
constexpr int kGroupVectors = 4, kGroup = kGroupVectors * kLanes;
constexpr int64_t kPiece = 64;
// With four rows of a, vectors whose sums fit the registers.
constexpr int kNarrow = kLanes == 16 ? kGroupVectors : 2;

/// sums (kRows, kVectors) += a (kRows, depth) times a packed piece
template <bool kDot, int kRows, int kVectors>
S2FT_INLINE void add_tile(float* sums, const float* a, int64_t row, const float* piece,
                          int64_t depth) {
  vf total[kRows][kVectors];
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) total[i][j] = load(sums + i * kGroup + j * kLanes);
  }
  for (int64_t k = 0; k < depth; ++k) {
    vf right[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) right[j] = load(piece + k * kGroup + j * kLanes);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      int32_t unit;
      std::memcpy(&unit, a + i * row + k, 4);
      const vf left = reinterpret_cast<vf>(splat(unit));
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        total[i][j] = multiply_add<kDot>(left, right[j], total[i][j]);
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) store(sums + i * kGroup + j * kLanes, total[i][j]);
  }
}

template <bool kDot, int kRows, int kWide>
S2FT_INLINE void add_vectors(int vectors, float* sums, const float* a, int64_t row,
                             const float* piece, int64_t depth) {
  int v = 0;
  for (; v + kWide <= vectors; v += kWide) {
    add_tile<kDot, kRows, kWide>(sums + v * kLanes, a, row, piece + v * kLanes, depth);
  }
  for (; v < vectors; ++v) {
    add_tile<kDot, kRows, 1>(sums + v * kLanes, a, row, piece + v * kLanes, depth);
  }
}

template <bool kDot>
S2FT_INLINE void add_piece(int vectors, float* sums, int64_t rows, const float* a,
                           int64_t row, const float* piece, int64_t depth) {
  const auto advance = [&](int64_t n) { sums += n * kGroup, a += n * row, rows -= n; };
  for (; rows >= 4; advance(4)) {
    add_vectors<kDot, 4, kNarrow>(vectors, sums, a, row, piece, depth);
  }
  if (rows >= 2) {
    add_vectors<kDot, 2, kGroupVectors>(vectors, sums, a, row, piece, depth);
    advance(2);
  }
  if (rows) add_vectors<kDot, 1, kGroupVectors>(vectors, sums, a, row, piece, depth);
}

/// Rows of a weight side by side, and the memory that will be read next.
template <class T>
struct Weights {
  const T* rows;
  int64_t ld;
  const char *ahead, *end;

  S2FT_INLINE void fetch(int64_t bytes) {
    for (const char* to = ahead + bytes; ahead < to && ahead < end; ahead += kLine) {
      __builtin_prefetch(ahead, 0, 2);
    }
  }
};

/// sums (kRows, one vector) += a times a block of a weight whose unit u holds unit u of
/// the depth for every lane, or (kPairs) two bf16 of it that are widened here.
template <bool kDot, bool kPairs, int kRows>
S2FT_INLINE void add_block(float* sums, const float* a, int64_t row, const vf* block) {
  vf total[kRows];
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) total[i] = load(sums + i * kGroup);
  const auto add = [&](int64_t at, vf right) {
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      int32_t unit;
      std::memcpy(&unit, a + i * row + at, 4);
      const vf left = reinterpret_cast<vf>(splat(unit));
      total[i] = multiply_add<kDot>(left, right, total[i]);
    }
  };
#pragma GCC unroll 16
  for (int u = 0; u < kLanes; ++u) {
    if constexpr (kPairs) {
      add(2 * u, from_bits(bits(block[u]) << 16));
      add(2 * u + 1, from_bits(bits(block[u]) & 0xffff0000u));
    } else {
      add(u, block[u]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) store(sums + i * kGroup, total[i]);
}

/// As add_piece, for kRows rows and whole vectors, straight from the weight's rows, whose
/// elements change places in registers. Covers units [k, stop) as far as whole vectors of
/// memory do; returns where it ended.
template <class T, bool kDot, int kRows>
int64_t add_in_place(int vectors, float* sums, const float* a, int64_t row, Weights<T>& w,
                     int64_t k, int64_t stop) {
  // Two bf16 move as one lane.
  constexpr bool kPairs = sizeof(T) == 2 && !kDot;
  constexpr int64_t kUnits = kPairs ? 2 * kLanes : kLanes, kElements = kDot ? 2 : 1;
  constexpr int kFirst = kRows < 4 ? kRows : 4;
  const int64_t blocks = max_of((stop - k) / kUnits * vectors, 1);
  const int64_t bytes = ceil_div(ceil_div(w.end - w.ahead, blocks), kLine) * kLine;
  for (; k + kUnits <= stop; k += kUnits) {
    for (int v = 0; v < vectors; ++v) {
      w.fetch(bytes);
      const T* from = w.rows + v * kLanes * w.ld + k * kElements;
      vf block[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        std::memcpy(&block[i], from + i * w.ld, sizeof(vf));
      }
      transpose(block);
      float* to = sums + v * kLanes;
      add_block<kDot, kPairs, kFirst>(to, a + k, row, block);
      if constexpr (kRows > 4) {
        add_block<kDot, kPairs, kRows - 4>(to + 4 * kGroup, a + 4 * row + k, row, block);
      }
    }
  }
  return k;
}

template <class T, bool kDot>
int64_t add_in_place(int64_t rows, int vectors, float* sums, const float* a, int64_t row,
                     Weights<T>& w, int64_t k, int64_t stop) {
  switch (rows) {
    case 1:
      return add_in_place<T, kDot, 1>(vectors, sums, a, row, w, k, stop);
    case 2:
      return add_in_place<T, kDot, 2>(vectors, sums, a, row, w, k, stop);
    case 3:
      return add_in_place<T, kDot, 3>(vectors, sums, a, row, w, k, stop);
    case 4:
      return add_in_place<T, kDot, 4>(vectors, sums, a, row, w, k, stop);
    case 5:
      return add_in_place<T, kDot, 5>(vectors, sums, a, row, w, k, stop);
    case 6:
      return add_in_place<T, kDot, 6>(vectors, sums, a, row, w, k, stop);
    case 7:
      return add_in_place<T, kDot, 7>(vectors, sums, a, row, w, k, stop);
    case 8:
      return add_in_place<T, kDot, 8>(vectors, sums, a, row, w, k, stop);
  }
  return k;
}

/// total += c for its columns from j on, as many as total has.
template <class Out>
S2FT_INLINE void add_old(const Mat& c, float* total, int64_t j, int64_t n) {
  for (int64_t i = 0; i < c.rows; ++i) {
    const Out* old = row<Out>(c, i) + j;
    float* to = total + i * kGroup;
    lanes(0, n, [&](int64_t l, auto width) {
      store(to + l, load(to + l) + take(old + l, width));
    });
  }
}

/// Columns [j, j + n) of c. The depth is cut as gemm.cpp cuts it; its blocks' sums join
/// in the same order, and what c held joins them first where c is f32, else last.
template <class T, bool kDot, class Out>
void group(const Mat& c, const float* a, int64_t row, Weights<T> w, int64_t depth,
           bool add, int64_t j, int64_t n) {
  constexpr bool kOldFirst = std::is_same_v<Out, float>;
  constexpr int64_t kElements = kDot ? 2 : 1;
  alignas(64) float piece[kPiece * kGroup], sums[kMostRows * kGroup];
  alignas(64) float total[kMostRows * kGroup];
  const int vectors = int(ceil_div(n, kLanes));
  const int64_t all = units<kDot>(depth), block = depth_block(all);
  const size_t bytes = size_t(c.rows) * kGroup * sizeof(float);
  const int64_t pieces = ceil_div(all, kPiece);
  const int64_t step = ceil_div(ceil_div(w.end - w.ahead, pieces), kLine) * kLine;
  for (int64_t k0 = 0; k0 < all; k0 += block) {
    std::memset(sums, 0, bytes);
    const int64_t stop = min_of(k0 + block, all);
    int64_t k = k0;
    if (n % kLanes == 0) {
      const int64_t whole = min_of(stop, depth / kElements);
      k = add_in_place<T, kDot>(c.rows, vectors, sums, a, row, w, k, whole);
    }
    for (; k < stop; k += kPiece) {
      const int64_t here = min_of(kPiece, stop - k), first = k * kElements;
      pack_transposed<T, kDot>(piece, kGroup, w.rows + first, w.ld, n,
                               min_of(here * kElements, depth - first));
      w.fetch(step);
      add_piece<kDot>(vectors, sums, c.rows, a + k, row, piece, here);
    }
    for (int64_t i = 0; k0 > 0 && i < c.rows * kGroup; i += kLanes) {
      store(sums + i, load(sums + i) + load(total + i));
    }
    std::memcpy(total, sums, bytes);
    if (add && kOldFirst && k0 == 0) add_old<Out>(c, total, j, n);
  }
  if (add && !kOldFirst) add_old<Out>(c, total, j, n);
  for (int64_t i = 0; i < c.rows; ++i) {
    Out* to = s2ft::S2FT_ISA::row<Out>(c, i) + j;
    const float* from = total + i * kGroup;
    lanes(0, n, [&](int64_t l, auto width) { give(to + l, load(from + l), width); });
  }
}

/// `weights(j, n, end)` gives rows [j, j + n), of which those before `end` are read.
template <class T, bool kDot, class Out, class Rows>
void run(const Mat& c, const Mat& a, bool add, void* scratch, Rows&& weights) {
  float* packed = static_cast<float*>(scratch);
  const int64_t row = round_up_to_lanes(units<kDot>(a.cols));
  pack_rows<T, kDot>(packed, row, a.as<T>(), a.ld, a.rows, a.cols);
  split(c.cols, c.cols * a.cols, kGroup, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; j += kGroup) {
      const int64_t n = min_of(kGroup, end - j);
      group<T, kDot, Out>(c, packed, row, weights(j, n, end), a.cols, add, j, n);
    }
  });
}

/// The tile of one thread: rows that vectors may be read from, up to their end.
int64_t tile_row(const Mat& a) {
  return round_up_to_lanes(a.cols);
}

size_t tile_bytes(const Mat& a) {
  return size_t(kGroup * tile_row(a)) * sizeof(float);
}

size_t packed_bytes(const Mat& a) {
  return size_t(kMostRows * round_up_to_lanes(a.cols)) * sizeof(float);
}

}  // namespace

bool is_few_rows(Mat c, bool transpose_a, bool transpose_b) {
  return transpose_b && !transpose_a && c.rows <= kMostRows;
}

size_t few_rows_scratch(Mat a) {
  return packed_bytes(a);
}

/// c = a b^T, plus c where asked.
void few_rows(Mat c, Mat a, Mat b, bool add, void* scratch) {
  with_type(c.dtype, [&](auto* out) {
    using Out = S2FT_TYPE_OF(out);
    const auto rows = [&](auto* type) {
      using T = S2FT_TYPE_OF(type);
      return [&b](int64_t j, int64_t n, int64_t end) -> Weights<T> {
        const auto at = [&](int64_t i) {
          return reinterpret_cast<const char*>(row<T>(b, i));
        };
        return {row<T>(b, j), b.ld, at(j + n), at(min_of(j + n + kGroup, end))};
      };
    };
    if (a.dtype == DType::f32) {
      return run<float, false, Out>(c, a, add, scratch,
                                    rows(static_cast<float*>(nullptr)));
    }
    run<bf16, kDotBf16, Out>(c, a, add, scratch, rows(static_cast<bf16*>(nullptr)));
  });
}

size_t few_rows_quantized_scratch(Mat a) {
  return packed_bytes(a) + size_t(omp_get_max_threads()) * tile_bytes(a);
}

/// The same for a quantized b.
void few_rows_quantized(Mat c, Mat a, QuantizedStack b, bool add, void* scratch) {
  const int64_t ld = tile_row(a);
  with_type(c.dtype, [&](auto* out) {
    using Out = S2FT_TYPE_OF(out);
    const auto rows = [&](auto* type) {
      using T = S2FT_TYPE_OF(type);
      return [&](int64_t j, int64_t n, int64_t) -> Weights<T> {
        char* tiles = static_cast<char*>(scratch) + packed_bytes(a);
        T* tile = reinterpret_cast<T*>(tiles + omp_get_thread_num() * tile_bytes(a));
        dequantize_tile(tile, ld, b, j, n, 0, a.cols);
        return {tile, ld, nullptr, nullptr};
      };
    };
    if (a.dtype == DType::f32) {
      return run<float, false, Out>(c, a, add, scratch,
                                    rows(static_cast<float*>(nullptr)));
    }
    run<bf16, kDotBf16, Out>(c, a, add, scratch, rows(static_cast<bf16*>(nullptr)));
  });
}

}  // namespace s2ft::S2FT_ISA
