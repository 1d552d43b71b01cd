// Sums over rows, columns and whole sets of matrices, the same every time.
#include <vector>

#include "cuda/columns.cuh"
#include "cuda/ops.h"

namespace s2ft::cuda {

namespace {

template <class X>
struct Value {
  View<X> x;
  __device__ float value(int64_t i, int64_t j) const { return to_f32(*x.at(i, j)); }
};

template <class X, class Y>
struct Product {
  View<X> x;
  View<Y> y;
  __device__ float value(int64_t i, int64_t j) const {
    return to_f32(*x.at(i, j)) * to_f32(*y.at(i, j));
  }
};

float* partial_of(Context& context, const Mat& x) {
  const int64_t floats = column_scratch(x.rows, x.cols);
  return static_cast<float*>(context.scratch(size_t(floats) * sizeof(float)));
}

constexpr int kDotThreads = 128;

template <class X, class Y>
__global__ void dot_rows_kernel(float* dot, View<X> x, View<Y> y, int64_t rows,
                                int64_t cols) {
  __shared__ double partial[32];
  for (int64_t i = blockIdx.x; i < rows; i += gridDim.x) {
    double sum = 0;
    for (int64_t j = threadIdx.x; j < cols; j += kDotThreads)
      sum += double(to_f32(*x.at(i, j))) * double(to_f32(*y.at(i, j)));
    sum = block_sum(sum, partial);
    if (threadIdx.x == 0) dot[i] = float(sum);
    __syncthreads();
  }
}

// Squares are summed in chunks of this many elements, whatever the device.
constexpr int64_t kChunk = 1 << 14;
constexpr int kSquareThreads = 256;

struct Squared {
  const void* data;
  int64_t cols, ld, count;
  int64_t first_chunk;
  bool bf16;
};

template <class T>
__device__ double squares(const T* x, const Squared& m, int64_t begin, int64_t end) {
  double sum = 0;
  for (int64_t e = begin + threadIdx.x; e < end; e += kSquareThreads) {
    const double v =
        m.ld == m.cols ? to_f32(x[e]) : to_f32(x[e / m.cols * m.ld + e % m.cols]);
    sum += v * v;
  }
  return sum;
}

/// partial[chunk] for every chunk of every matrix.
__global__ void squares_kernel(double* partial, const Squared* matrices, int count,
                               int64_t chunks) {
  __shared__ double shared[32];
  for (int64_t chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    // The last matrix that begins at or before this chunk.
    int at = 0, last = count - 1;
    while (at < last) {
      const int middle = (at + last + 1) / 2;
      if (matrices[middle].first_chunk <= chunk) {
        at = middle;
      } else {
        last = middle - 1;
      }
    }
    const Squared m = matrices[at];
    const int64_t begin = (chunk - m.first_chunk) * kChunk;
    const int64_t end = begin + kChunk < m.count ? begin + kChunk : m.count;
    double sum = m.bf16 ? squares(static_cast<const bf16_t*>(m.data), m, begin, end)
                        : squares(static_cast<const float*>(m.data), m, begin, end);
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) partial[chunk] = sum;
    __syncthreads();
  }
}

__global__ void total_kernel(double* total, const double* partial, int64_t chunks) {
  __shared__ double shared[32];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < chunks; i += kSquareThreads) sum += partial[i];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *total = sum;
}

}  // namespace

void sum_rows(Context& context, Mat sum, Mat x) {
  if (x.count() == 0) return;
  with_type(x.dtype, [&](auto* type) {
    add_columns(context, sum.as<float>(), x.rows, x.cols, partial_of(context, x),
                Value<Pointed<decltype(type)>>{x});
  });
}

void dot_cols(Context& context, Mat sum, Mat x, Mat y) {
  if (x.count() == 0) return;
  with_types(x.dtype, y.dtype, [&](auto* a, auto* b) {
    add_columns(context, sum.as<float>(), x.rows, x.cols, partial_of(context, x),
                Product<Pointed<decltype(a)>, Pointed<decltype(b)>>{x, y});
  });
}

void dot_rows(Context& context, Mat dot, Mat x, Mat y) {
  if (x.rows == 0) return;
  const unsigned blocks = unsigned(std::min<int64_t>(x.rows, 65535));
  with_types(x.dtype, y.dtype, [&](auto* a, auto* b) {
    using X = Pointed<decltype(a)>;
    using Y = Pointed<decltype(b)>;
    launch(context, dot_rows_kernel<X, Y>, dim3(blocks), dim3(kDotThreads), 0,
           dot.as<float>(), View<X>(x), View<Y>(y), x.rows, x.cols);
  });
}

void sum_of_squares(Context& context, double* sum, const Mat* x, int count) {
  std::vector<Squared> matrices;
  int64_t chunks = 0;
  for (int i = 0; i < count; ++i) {
    if (x[i].count() == 0) continue;
    matrices.push_back({x[i].data, x[i].cols, x[i].rows == 1 ? x[i].cols : x[i].ld,
                        x[i].count(), chunks, x[i].dtype == DType::bf16});
    chunks += (x[i].count() + kChunk - 1) / kChunk;
  }
  if (chunks == 0) return zero(context, mat(sum, DType::f32, 1, 2));
  const Squared* table = context.to_device(matrices.data(), int64_t(matrices.size()));
  auto* partial = static_cast<double*>(context.scratch(size_t(chunks) * sizeof(double)));
  const unsigned blocks = unsigned(std::min<int64_t>(chunks, 1 << 16));
  launch(context, squares_kernel, dim3(blocks), dim3(kSquareThreads), 0, partial, table,
         int(matrices.size()), chunks);
  launch(context, total_kernel, dim3(1), dim3(kSquareThreads), 0, sum,
         static_cast<const double*>(partial), chunks);
}

}  // namespace s2ft::cuda
