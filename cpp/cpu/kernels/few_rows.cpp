// Products of a few rows with a linear layer's weight, as decoding makes them: every row
// of the weight is read once, where it lies, which is all that the memory allows. Rows of
// a quantized weight become numbers just before.
#include <omp.h>

#include "cpu/kernels/dequantize.h"
#include "cpu/kernels/ops.h"
#include "cpu/kernels/tile_pack.h"

namespace s2ft::S2FT_ISA {

namespace {

constexpr int kMostRows = 8;
// A tile of dot products; its sums, weights and one activation fit the registers.
constexpr int kTileWeights = 4, kTileInputs = kLanes == 16 ? 4 : 2;

template <class T, bool kDot, int kWeights, int kInputs>
S2FT_INLINE void dot_tile(float (&out)[kInputs][kWeights], const T* a, int64_t lda,
                          const T* b, int64_t ldb, int64_t depth) {
  vf sums[kInputs][kWeights];
#pragma GCC unroll 4
  for (int i = 0; i < kInputs; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kWeights; ++j) sums[i][j] = vf{};
  }
  for (int64_t k = 0; k < units<kDot>(depth); k += kLanes) {
    vf weights[kWeights];
#pragma GCC unroll 4
    for (int j = 0; j < kWeights; ++j) {
      weights[j] = load_units<T, kDot>(b + j * ldb, k, depth);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kInputs; ++i) {
      const vf input = load_units<T, kDot>(a + i * lda, k, depth);
#pragma GCC unroll 4
      for (int j = 0; j < kWeights; ++j) {
        sums[i][j] = multiply_add<kDot>(input, weights[j], sums[i][j]);
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kInputs; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kWeights; ++j) out[i][j] = sum(sums[i][j]);
  }
}

/// Columns [j, j + kWeights) of c, rows [i, i + kInputs), by as many rows of a weight.
template <class T, bool kDot, class Out, int kWeights, int kInputs>
S2FT_INLINE void tile(const Mat& c, const Mat& a, const T* weight, int64_t ld, bool add,
                      int64_t i, int64_t j) {
  float sums[kInputs][kWeights];
  dot_tile<T, kDot>(sums, row<T>(a, i), a.ld, weight, ld, a.cols);
  for (int m = 0; m < kInputs; ++m) {
    Out* to = row<Out>(c, i + m) + j;
    for (int n = 0; n < kWeights; ++n) {
      put(to, n, add ? get(to, n) + sums[m][n] : sums[m][n]);
    }
  }
}

template <class T, bool kDot, class Out, int kWeights>
S2FT_INLINE void weights(const Mat& c, const Mat& a, const T* weight, int64_t ld,
                         bool add, int64_t j) {
  int64_t i = 0;
  for (; i + kTileInputs <= a.rows; i += kTileInputs) {
    tile<T, kDot, Out, kWeights, kTileInputs>(c, a, weight, ld, add, i, j);
  }
  for (; i < a.rows; ++i) {
    tile<T, kDot, Out, kWeights, 1>(c, a, weight, ld, add, i, j);
  }
}

/// `rows(j, n)` gives rows [j, j + n) of the weight, ld elements apart.
template <class T, bool kDot, class Out, class Rows>
void run(const Mat& c, const Mat& a, int64_t ld, bool add, Rows&& rows) {
  split(c.cols, c.cols * a.cols, kTileWeights, [&](int64_t begin, int64_t end) {
    int64_t j = begin;
    for (; j + kTileWeights <= end; j += kTileWeights) {
      weights<T, kDot, Out, kTileWeights>(c, a, rows(j, kTileWeights), ld, add, j);
    }
    for (; j < end; ++j) weights<T, kDot, Out, 1>(c, a, rows(j, 1), ld, add, j);
  });
}

/// The tile of one thread: rows that vectors may be read from, up to their end.
int64_t tile_row(const Mat& a) {
  return round_up_to_lanes(a.cols);
}

size_t tile_bytes(const Mat& a) {
  return size_t(kTileWeights * tile_row(a)) * sizeof(float);
}

}  // namespace

bool is_few_rows(Mat c, bool transpose_a, bool transpose_b) {
  return transpose_b && !transpose_a && c.rows <= kMostRows;
}

/// c = a b^T, plus c where asked.
void few_rows(Mat c, Mat a, Mat b, bool add) {
  with_type(c.dtype, [&](auto* out) {
    using Out = S2FT_TYPE_OF(out);
    const auto rows = [&](auto* type) {
      using T = S2FT_TYPE_OF(type);
      return [&b](int64_t j, int64_t) -> const T* { return row<T>(b, j); };
    };
    if (a.dtype == DType::f32) {
      return run<float, false, Out>(c, a, b.ld, add, rows(static_cast<float*>(nullptr)));
    }
    run<bf16, kDotBf16, Out>(c, a, b.ld, add, rows(static_cast<bf16*>(nullptr)));
  });
}

size_t few_rows_scratch(Mat a) {
  return size_t(omp_get_max_threads()) * tile_bytes(a);
}

/// The same for a quantized b.
void few_rows_quantized(Mat c, Mat a, QuantizedStack b, bool add, void* scratch) {
  const int64_t ld = tile_row(a);
  with_type(c.dtype, [&](auto* out) {
    using Out = S2FT_TYPE_OF(out);
    const auto rows = [&](auto* type) {
      using T = S2FT_TYPE_OF(type);
      return [&](int64_t j, int64_t n) -> const T* {
        char* tiles = static_cast<char*>(scratch);
        T* tile = reinterpret_cast<T*>(tiles + omp_get_thread_num() * tile_bytes(a));
        dequantize_tile(tile, ld, b, j, n, 0, a.cols);
        return tile;
      };
    };
    if (a.dtype == DType::f32) {
      return run<float, false, Out>(c, a, ld, add, rows(static_cast<float*>(nullptr)));
    }
    run<bf16, kDotBf16, Out>(c, a, ld, add, rows(static_cast<bf16*>(nullptr)));
  });
}

}  // namespace s2ft::S2FT_ISA
