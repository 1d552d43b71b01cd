// A plain tiled product: 64 x 64 results a block, sums in f32 along k in order, whatever
// the shape. Serves where cuBLASLt does not, and is what the tests measure it against.
#include "cuda/products.h"
#include "cuda/spans.cuh"

namespace s2ft::cuda {

namespace {

constexpr int kTile = 64, kDepth = 16, kThreads = 256, kEach = 4;

/// A matrix with any two strides: transposing exchanges them.
template <class T>
struct Strided {
  const T* data;
  int64_t row, col;
};

/// tile[k][i] = x(first + i, depth + k), zeros outside rows x cols.
template <class T>
__device__ inline void load_tile(float (*tile)[kTile + 1], const Strided<T>& x,
                                 int64_t first, int64_t rows, int64_t depth,
                                 int64_t cols) {
  // Neighbouring threads read neighbouring addresses.
  const bool along = x.col == 1;
  for (int e = threadIdx.x; e < kTile * kDepth; e += kThreads) {
    const int i = along ? e / kDepth : e % kTile, k = along ? e % kDepth : e / kTile;
    const bool inside = first + i < rows && depth + k < cols;
    tile[k][i] =
        inside ? to_f32(x.data[(first + i) * x.row + (depth + k) * x.col]) : 0.0f;
  }
}

template <class In, class Out>
__global__ void gemm_kernel(View<Out> c, Strided<In> a, Strided<In> b, int64_t m,
                            int64_t n, int64_t k, bool add) {
  __shared__ float left[kDepth][kTile + 1], right[kDepth][kTile + 1];
  const int64_t top = int64_t(blockIdx.x) * kTile, side = int64_t(blockIdx.y) * kTile;
  const int row = threadIdx.x / (kTile / kEach), col = threadIdx.x % (kTile / kEach);
  float sums[kEach][kEach] = {};
  for (int64_t depth = 0; depth < k; depth += kDepth) {
    load_tile(left, a, top, m, depth, k);
    load_tile(right, b, side, n, depth, k);
    __syncthreads();
    for (int d = 0; d < kDepth; ++d) {
      float x[kEach], y[kEach];
      for (int i = 0; i < kEach; ++i) {
        x[i] = left[d][row * kEach + i];
        y[i] = right[d][col + i * (kTile / kEach)];
      }
      for (int i = 0; i < kEach; ++i)
        for (int j = 0; j < kEach; ++j) sums[i][j] = fmaf(x[i], y[j], sums[i][j]);
    }
    __syncthreads();
  }
  for (int i = 0; i < kEach; ++i) {
    for (int j = 0; j < kEach; ++j) {
      const int64_t at = top + row * kEach + i, to = side + col + j * (kTile / kEach);
      if (at >= m || to >= n) continue;
      Out* out = c.at(at, to);
      *out = from_f32<Out>(add ? to_f32(*out) + sums[i][j] : sums[i][j]);
    }
  }
}

}  // namespace

void gemm(Context& context, Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b,
          float beta) {
  const int64_t depth = transpose_a ? a.rows : a.cols;
  // More rows or columns than a grid's second dimension holds go to the first.
  const dim3 grid(unsigned((c.rows + kTile - 1) / kTile),
                  unsigned((c.cols + kTile - 1) / kTile));
  const auto run = [&](auto* in, auto* out) {
    using In = Pointed<decltype(in)>;
    using Out = Pointed<decltype(out)>;
    const Strided<In> left{a.as<In>(), transpose_a ? 1 : a.ld, transpose_a ? a.ld : 1};
    // Columns of the product are the rows of its right side.
    const Strided<In> right{b.as<In>(), transpose_b ? b.ld : 1, transpose_b ? 1 : b.ld};
    launch(context, gemm_kernel<In, Out>, grid, dim3(kThreads), 0, View<Out>(c), left,
           right, c.rows, c.cols, depth, beta != 0);
  };
  with_type(a.dtype, [&](auto* in) {
    if (c.dtype == DType::f32) {
      run(in, static_cast<float*>(nullptr));
    } else {
      run(in, in);
    }
  });
}

}  // namespace s2ft::cuda
