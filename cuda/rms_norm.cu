// RMS norm over groups of columns and its gradient: a block for each group of a row.
#include "cuda/columns.cuh"
#include "cuda/ops.h"

namespace s2ft::cuda {

namespace {

constexpr int kMostThreads = 256;

/// Threads of a group's block: whole warps, about four elements each.
unsigned threads_of(int64_t group) {
  const int64_t wanted = (group + 127) / 128 * 32;
  return unsigned(std::min<int64_t>(wanted, kMostThreads));
}

unsigned blocks_of(const Mat& x, int64_t group) {
  return unsigned(std::min<int64_t>(x.rows * (x.cols / group), int64_t(1) << 30));
}

/// The place of group g of a matrix with `groups` groups a row.
template <class T>
__device__ inline T* group_at(const View<T>& x, int64_t g, int64_t groups,
                              int64_t group) {
  return x.at(g / groups, g % groups * group);
}

template <class X, class W>
__global__ void rms_norm_kernel(View<X> y, View<X> x, const W* w, int64_t count,
                                int64_t groups, int64_t group, float eps) {
  __shared__ float partial[32];
  for (int64_t g = blockIdx.x; g < count; g += gridDim.x) {
    const X* xi = group_at(x, g, groups, group);
    X* yi = group_at(y, g, groups, group);
    float squares = 0;
    for (int64_t j = threadIdx.x; j < group; j += blockDim.x) {
      const float v = to_f32(xi[j]);
      squares += v * v;
    }
    const float r = 1.0f / sqrtf(block_sum(squares, partial) / float(group) + eps);
    for (int64_t j = threadIdx.x; j < group; j += blockDim.x)
      yi[j] = from_f32<X>(to_f32(xi[j]) * r * to_f32(w[j]));
    __syncthreads();
  }
}

// With y = x r w and r = 1 / sqrt(mean(x^2) + eps):
// dx = r (w dy - x r^2 mean(w dy x)), dw = sum of dy x r.
template <class X, class W>
__global__ void backward_kernel(View<X> dx, bool accumulate, View<X> dy, View<X> x,
                                const W* w, int64_t count, int64_t groups, int64_t group,
                                float eps) {
  __shared__ float partial[2][32];
  for (int64_t g = blockIdx.x; g < count; g += gridDim.x) {
    const X* xi = group_at(x, g, groups, group);
    const X* di = group_at(dy, g, groups, group);
    X* to = group_at(dx, g, groups, group);
    float squares = 0, dots = 0;
    for (int64_t j = threadIdx.x; j < group; j += blockDim.x) {
      const float v = to_f32(xi[j]);
      squares += v * v;
      dots += to_f32(w[j]) * to_f32(di[j]) * v;
    }
    squares = block_sum(squares, partial[0]);
    dots = block_sum(dots, partial[1]);
    const float r = 1.0f / sqrtf(squares / float(group) + eps);
    const float k = r * r * dots / float(group);
    for (int64_t j = threadIdx.x; j < group; j += blockDim.x) {
      float out = r * (to_f32(w[j]) * to_f32(di[j]) - k * to_f32(xi[j]));
      if (accumulate) out += to_f32(to[j]);
      to[j] = from_f32<X>(out);
    }
    __syncthreads();
  }
}

template <class X>
__global__ void inverse_rms_kernel(float* r, View<X> x, int64_t count, int64_t groups,
                                   int64_t group, float eps) {
  __shared__ float partial[32];
  for (int64_t g = blockIdx.x; g < count; g += gridDim.x) {
    const X* xi = group_at(x, g, groups, group);
    float squares = 0;
    for (int64_t j = threadIdx.x; j < group; j += blockDim.x) {
      const float v = to_f32(xi[j]);
      squares += v * v;
    }
    squares = block_sum(squares, partial);
    if (threadIdx.x == 0) r[g] = 1.0f / sqrtf(squares / float(group) + eps);
    __syncthreads();
  }
}

/// Row i is group i of all groups.
template <class X>
struct WeightGradient {
  View<X> dy, x;
  const float* r;
  int64_t groups, group;
  __device__ float value(int64_t i, int64_t j) const {
    return to_f32(group_at(dy, i, groups, group)[j]) *
           to_f32(group_at(x, i, groups, group)[j]) * r[i];
  }
};

}  // namespace

void rms_norm(Context& context, Mat y, Mat x, Mat w, float eps) {
  if (x.count() == 0) return;
  const int64_t group = w.cols, groups = x.cols / group;
  with_types(x.dtype, w.dtype, [&](auto* a, auto* b) {
    using X = Pointed<decltype(a)>;
    using W = Pointed<decltype(b)>;
    launch(context, rms_norm_kernel<X, W>, dim3(blocks_of(x, group)),
           dim3(threads_of(group)), 0, View<X>(y), View<X>(x),
           static_cast<const W*>(w.data), x.rows * groups, groups, group, eps);
  });
}

void rms_norm_backward(Context& context, Mat dx, bool accumulate, Mat dw, Mat dy, Mat x,
                       Mat w, float eps) {
  if (x.count() == 0) return;
  const int64_t group = w.cols, groups = x.cols / group, count = x.rows * groups;
  const dim3 blocks(blocks_of(x, group)), threads(threads_of(group));
  with_types(x.dtype, w.dtype, [&](auto* a, auto* b) {
    using X = Pointed<decltype(a)>;
    using W = Pointed<decltype(b)>;
    if (dw) {
      // First: dx may take dy's place.
      auto* r = static_cast<float*>(
          context.scratch(size_t(count + column_scratch(count, group)) * sizeof(float)));
      launch(context, inverse_rms_kernel<X>, blocks, threads, 0, r, View<X>(x), count,
             groups, group, eps);
      add_columns(context, dw.as<float>(), count, group, r + count,
                  WeightGradient<X>{dy, x, r, groups, group});
    }
    launch(context, backward_kernel<X, W>, blocks, threads, 0, View<X>(dx), accumulate,
           View<X>(dy), View<X>(x), static_cast<const W*>(w.data), count, groups, group,
           eps);
  });
}

}  // namespace s2ft::cuda
