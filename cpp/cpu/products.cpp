// Matrix products: oneDNN over the storage type, f32 products over bf16 storage widened
// block by block, or the portable kernel.
#include "cpu/products.h"

#include <algorithm>

namespace s2ft {
namespace {

// Blocks of a widened product. Its scratch is at most (M K + K N + M N) floats of these,
// 20 MB; each element is converted once per block of the other side, so larger is better.
constexpr int64_t kBlockM = 1024, kBlockN = 1024, kBlockK = 2048;

// Length of equal blocks of at most `most`, a multiple of 64 where there are several.
int64_t block_length(int64_t n, int64_t most) {
  if (n <= most) return n;
  const int64_t blocks = (n + most - 1) / most;
  return ((n + blocks - 1) / blocks + 63) / 64 * 64;
}

// Rows [i, i + ni) and columns [j, j + nj) of op(m), as a block of m.
Mat block_of(const Mat& m, bool transposed, int64_t i, int64_t ni, int64_t j,
             int64_t nj) {
  return transposed ? m.row_range(j, nj).col_range(i, ni)
                    : m.row_range(i, ni).col_range(j, nj);
}

}  // namespace

void Products::matmul(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b,
                      float beta) {
  const int64_t depth = transpose_a ? a.rows : a.cols;
  if (c.rows == 0 || c.cols == 0) return;
  if (depth == 0) {
    if (beta == 0) kernels_.zero(c);
    return;
  }
  if (!library_) {
    portable(c, a, transpose_a, b, transpose_b, beta);
  } else if (a.dtype == DType::bf16 && arithmetic_ == Arithmetic::widen) {
    widened(c, a, transpose_a, b, transpose_b, beta);
  } else {
    direct(c, a, transpose_a, b, transpose_b, beta);
  }
}

void Products::direct(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b,
                      float beta) {
  if (library_->matmul(c, a, transpose_a, b, transpose_b, beta, scratch_)) return;
  if (a.dtype == DType::bf16) {
    widened(c, a, transpose_a, b, transpose_b, beta);
  } else {
    portable(c, a, transpose_a, b, transpose_b, beta);
  }
}

void Products::portable(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b,
                        float beta) {
  auto scratch = scratch_.take(kernels_.gemm_scratch() * size_t(threads_));
  kernels_.gemm(c, a, transpose_a, b, transpose_b, beta, scratch.data());
}

void Products::widened(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b,
                       float beta) {
  const int64_t M = c.rows, N = c.cols, K = transpose_a ? a.rows : a.cols;
  const int64_t bm = block_length(M, kBlockM), bn = block_length(N, kBlockN),
                bk = block_length(K, kBlockK);
  const bool narrow = c.dtype == DType::bf16;
  auto scratch =
      scratch_.take(size_t(bm * bk + bk * bn + (narrow ? bm * bn : 0)) * sizeof(float));
  float* a_wide = scratch.as<float>();
  float* b_wide = a_wide + bm * bk;
  float* c_wide = b_wide + bk * bn;
  // A block that the last product already widened is not widened again.
  int64_t a_at[2] = {-1, -1}, b_at[2] = {-1, -1};
  for (int64_t n = 0; n < N; n += bn) {
    const int64_t nn = std::min(bn, N - n);
    for (int64_t m = 0; m < M; m += bm) {
      const int64_t nm = std::min(bm, M - m);
      const Mat target = c.row_range(m, nm).col_range(n, nn);
      const Mat sum = narrow ? mat(c_wide, DType::f32, nm, nn) : target;
      if (narrow && beta != 0) kernels_.copy(sum, target);
      for (int64_t k = 0; k < K; k += bk) {
        const int64_t nk = std::min(bk, K - k);
        Mat wa = block_of(a, transpose_a, m, nm, k, nk);
        Mat wb = block_of(b, transpose_b, k, nk, n, nn);
        const Mat to_a = mat(a_wide, DType::f32, wa.rows, wa.cols);
        const Mat to_b = mat(b_wide, DType::f32, wb.rows, wb.cols);
        if (a_at[0] != m || a_at[1] != k) kernels_.copy(to_a, wa);
        if (b_at[0] != n || b_at[1] != k) kernels_.copy(to_b, wb);
        a_at[0] = m, a_at[1] = k, b_at[0] = n, b_at[1] = k;
        const float keep = k == 0 ? beta : 1.0f;
        if (!library_->matmul(sum, to_a, transpose_a, to_b, transpose_b, keep,
                              scratch_)) {
          portable(sum, to_a, transpose_a, to_b, transpose_b, keep);
        }
      }
      if (narrow) kernels_.copy(target, sum);
    }
  }
}

}  // namespace s2ft
