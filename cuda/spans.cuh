// Loops over the elements of matrices, one or four at a time, and the choice of types.
#pragma once

#include <algorithm>

#include "cuda/device.cuh"

namespace s2ft::cuda {

/// f(T*) for the type's element type.
template <class F>
void with_type(DType type, F&& f) {
  if (type == DType::bf16) {
    f(static_cast<bf16_t*>(nullptr));
  } else {
    f(static_cast<float*>(nullptr));
  }
}
template <class F>
void with_types(DType a, DType b, F&& f) {
  with_type(a, [&](auto* x) { with_type(b, [&](auto* y) { f(x, y); }); });
}
template <class T>
using Pointed = std::remove_pointer_t<T>;

/// A matrix as kernels take it.
template <class T>
struct View {
  T* data;
  int64_t ld;

  View(const Mat& m) : data(static_cast<T*>(m.data)), ld(m.ld) {}
  __device__ T* at(int64_t i, int64_t j) const { return data + i * ld + j; }
};

template <int V>
struct Floats {
  float v[V];
};

template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T v[V];
};

template <int V, class T>
__device__ inline Floats<V> load(const T* from) {
  const Pack<T, V> pack = *reinterpret_cast<const Pack<T, V>*>(from);
  Floats<V> out;
  for (int i = 0; i < V; ++i) out.v[i] = to_f32(pack.v[i]);
  return out;
}
template <int V, class T>
__device__ inline void store(T* to, const Floats<V>& x) {
  Pack<T, V> pack;
  for (int i = 0; i < V; ++i) pack.v[i] = from_f32<T>(x.v[i]);
  *reinterpret_cast<Pack<T, V>*>(to) = pack;
}

/// f.apply<V>(i, j) for elements j .. j + V of every row i.
template <int V, class F>
__global__ void spans_kernel(int64_t rows, int64_t cols, F f) {
  const int64_t row_step = int64_t(gridDim.y) * blockDim.y;
  const int64_t col_step = int64_t(gridDim.x) * blockDim.x * V;
  const int64_t first = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * V;
  for (int64_t i = int64_t(blockIdx.y) * blockDim.y + threadIdx.y; i < rows;
       i += row_step)
    for (int64_t j = first; j < cols; j += col_step) f.template apply<V>(i, j);
}

constexpr int kVector = 4, kSpanThreads = 256;

/// Whether four elements of a row can be read and written at once.
inline bool vectors(const Mat& m) {
  const int64_t bytes = kVector * int64_t(dtype_size(m.dtype));
  return m.ld % kVector == 0 &&
         reinterpret_cast<uintptr_t>(m.data) % uintptr_t(bytes) == 0;
}
inline bool contiguous(const Mat& m) {
  return m.ld == m.cols || m.rows <= 1;
}

/// Runs the functor over rows x cols elements. `wide`: every matrix of it holds
/// vectors().
template <class F>
void spans(Context& context, int64_t rows, int64_t cols, bool wide, const F& f) {
  if (rows == 0 || cols == 0) return;
  wide = wide && cols % kVector == 0;
  const int64_t across = wide ? cols / kVector : cols;
  unsigned x = 32;
  while (x < kSpanThreads && x < across) x *= 2;
  const unsigned y = kSpanThreads / x;
  const int64_t most = int64_t(context.multiprocessors()) * 16;
  const int64_t wide_blocks = std::min<int64_t>((across + x - 1) / x, most);
  const int64_t tall_blocks = std::min<int64_t>(
      {(rows + y - 1) / y, std::max<int64_t>(1, most / wide_blocks), 65535});
  const dim3 grid{unsigned(wide_blocks), unsigned(tall_blocks)}, block{x, y};
  launch(context, wide ? spans_kernel<kVector, F> : spans_kernel<1, F>, grid, block, 0,
         rows, cols, f);
}

/// The same where the functor minds no row's end: contiguous matrices are one long row.
template <class F>
void flat_spans(Context& context, int64_t rows, int64_t cols, bool flat, bool wide,
                const F& f) {
  if (flat) {
    spans(context, 1, rows * cols, wide, f);
  } else {
    spans(context, rows, cols, wide, f);
  }
}

}  // namespace s2ft::cuda
