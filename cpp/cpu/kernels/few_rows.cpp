// Products of a few rows with a linear layer's weight, as decoding makes them: every row
// of the weight is read once, where it lies, which is all that the memory allows.
#include <omp.h>

#include "cpu/kernels/loops.h"
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

template <class T, bool kDot, class Out, int kWeights, int kInputs>
S2FT_INLINE void tile(const Mat& c, const Mat& a, const Mat& b, bool add, int64_t i,
                      int64_t j) {
  float sums[kInputs][kWeights];
  dot_tile<T, kDot>(sums, row<T>(a, i), a.ld, row<T>(b, j), b.ld, a.cols);
  for (int m = 0; m < kInputs; ++m) {
    Out* to = row<Out>(c, i + m) + j;
    for (int n = 0; n < kWeights; ++n) {
      put(to, n, add ? get(to, n) + sums[m][n] : sums[m][n]);
    }
  }
}

template <class T, bool kDot, class Out, int kWeights>
S2FT_INLINE void weights(const Mat& c, const Mat& a, const Mat& b, bool add, int64_t j) {
  int64_t i = 0;
  for (; i + kTileInputs <= a.rows; i += kTileInputs) {
    tile<T, kDot, Out, kWeights, kTileInputs>(c, a, b, add, i, j);
  }
  for (; i < a.rows; ++i) tile<T, kDot, Out, kWeights, 1>(c, a, b, add, i, j);
}

template <class T, bool kDot, class Out>
void run(const Mat& c, const Mat& a, const Mat& b, bool add) {
  split(c.cols, c.cols * a.cols, kTileWeights, [&](int64_t begin, int64_t end) {
    int64_t j = begin;
    for (; j + kTileWeights <= end; j += kTileWeights) {
      weights<T, kDot, Out, kTileWeights>(c, a, b, add, j);
    }
    for (; j < end; ++j) weights<T, kDot, Out, 1>(c, a, b, add, j);
  });
}

}  // namespace

bool is_few_rows(Mat c, bool transpose_a, bool transpose_b) {
  return transpose_b && !transpose_a && c.rows <= kMostRows;
}

/// c = a b^T, plus c where asked.
void few_rows(Mat c, Mat a, Mat b, bool add) {
  with_type(c.dtype, [&](auto* out) {
    using Out = S2FT_TYPE_OF(out);
    if (a.dtype == DType::f32) return run<float, false, Out>(c, a, b, add);
    run<bf16, kDotBf16, Out>(c, a, b, add);
  });
}

}  // namespace s2ft::S2FT_ISA
