#include "cpu/products.h"

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

}  // namespace s2ft
