// Softmax cross entropy over a large vocabulary, loss and gradient: a block for each row.
#include "cuda/ops.h"
#include "cuda/spans.cuh"

namespace s2ft::cuda {

namespace {

constexpr int kThreads = 256;

/// nll, d (n, vocabulary) of logits. d may start where logits do, with elements as wide
/// or half as wide: a part of the row is read by all threads before any writes it, and
/// what is written reaches no later part.
template <class D>
__global__ void cross_entropy_kernel(float* nll, View<D> d, View<float> logits,
                                     const int32_t* targets, int64_t rows, int64_t cols,
                                     const float* gradient_scale) {
  __shared__ float maxima[32];
  __shared__ double sums[32];
  for (int64_t i = blockIdx.x; i < rows; i += gridDim.x) {
    const float* x = logits.at(i, 0);
    const int32_t target = targets[i];
    const float at_target = x[target];
    float max = -HUGE_VALF;
    for (int64_t j = threadIdx.x; j < cols; j += kThreads) max = fmaxf(max, x[j]);
    max = block_max(max, maxima);
    double sum = 0;
    for (int64_t j = threadIdx.x; j < cols; j += kThreads)
      sum += double(expf(x[j] - max));
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) nll[i] = float(log(sum) + (double(max) - double(at_target)));
    if (d.data) {
      const float total = float(sum), factor = *gradient_scale / total;
      // softmax - 1 at the target, from the f32 probability before any rounding.
      const float hit = (expf(at_target - max) / total - 1.0f) * *gradient_scale;
      D* to = d.at(i, 0);
      for (int64_t begin = 0; begin < cols; begin += kThreads) {
        const int64_t j = begin + threadIdx.x;
        const float value = j < cols ? expf(x[j] - max) * factor : 0.0f;
        __syncthreads();
        if (j < cols) to[j] = from_f32<D>(j == target ? hit : value);
      }
    }
    __syncthreads();
  }
}

}  // namespace

void cross_entropy(Context& context, Mat nll, Mat dlogits, Mat logits,
                   const int32_t* targets, float gradient_scale) {
  if (logits.rows == 0) return;
  const int32_t* at = context.to_device(targets, logits.rows);
  // Differs between steps whose shapes do not: it travels with the targets.
  const float* factor = context.to_device(&gradient_scale, 1);
  const unsigned blocks = unsigned(std::min<int64_t>(logits.rows, 65535));
  with_type(dlogits ? dlogits.dtype : DType::f32, [&](auto* type) {
    using D = Pointed<decltype(type)>;
    launch(context, cross_entropy_kernel<D>, dim3(blocks), dim3(kThreads), 0,
           nll.as<float>(), View<D>(dlogits), View<float>(logits), at, logits.rows,
           logits.cols, factor);
  });
}

}  // namespace s2ft::cuda
