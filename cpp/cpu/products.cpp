#include "cpu/products.h"

#include <algorithm>

namespace s2ft {

void Products::matmul(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b,
                      float beta) {
  const int64_t depth = transpose_a ? a.rows : a.cols;
  if (c.rows == 0 || c.cols == 0) return;
  if (depth == 0) {
    if (beta == 0) kernels_.zero(c);
    return;
  }
  // oneDNN leaves some layouts to a reference implementation; the kernel serves those.
  if (library_ && library_->matmul(c, a, transpose_a, b, transpose_b, beta, scratch_)) {
    return;
  }
  const size_t bytes = kernels_.gemm_scratch(c, a, transpose_a, b, transpose_b);
  const ScratchPool::Lease scratch = scratch_.take(bytes);
  kernels_.gemm(c, a, transpose_a, b, transpose_b, beta, scratch.data());
}

// Few enough to stay in a processor's cache, enough for the library to be quick.
constexpr int64_t kLibraryBytes = 4 << 20;

size_t Products::workspace_bytes() const {
  return library_ ? size_t(kLibraryBytes) : 0;
}

void Products::matmul_quantized(Mat c, Mat a, QuantizedStack b, bool transpose_b,
                                float beta) {
  if (c.rows == 0 || c.cols == 0) return;
  if (!library_) {
    const size_t bytes = kernels_.gemm_quantized_scratch(c, a, b, transpose_b);
    const ScratchPool::Lease scratch = scratch_.take(bytes);
    kernels_.gemm_quantized(c, a, b, transpose_b, beta, scratch.data());
    return;
  }
  // Parts of c's columns, so that every sum is one product's.
  const int64_t column_bytes = a.cols * int64_t(dtype_size(a.dtype));
  const int64_t most = std::max<int64_t>(kLibraryBytes / column_bytes / 64, 1) * 64;
  const ScratchPool::Lease scratch =
      scratch_.take(size_t(std::min(c.cols, most) * column_bytes));
  for (int64_t j = 0; j < c.cols; j += most) {
    const int64_t n = std::min(most, c.cols - j);
    const Mat part = transpose_b ? mat(scratch.data(), a.dtype, n, a.cols)
                                 : mat(scratch.data(), a.dtype, a.cols, n);
    kernels_.dequantize(part, b, transpose_b ? j : 0, transpose_b ? 0 : j);
    matmul(c.col_range(j, n), a, false, part, transpose_b, beta);
  }
}

}  // namespace s2ft
