// Softmax cross entropy over a large vocabulary, loss and gradient, one row a time.
#include <cassert>
#include <cmath>

#include "cpu/kernels/loops.h"
#include "cpu/kernels/ops.h"

namespace s2ft::S2FT_ISA {
namespace {

S2FT_INLINE float row_max(const float* x, int64_t n) {
  vf m = splat(x[0]);
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) m = max(load(x + j), m);
  float result = largest(m);
  for (; j < n; ++j) result = x[j] > result ? x[j] : result;
  return result;
}

// In blocks: a vocabulary of 100,000 terms in one f32 sum would lose two digits, and a
// compiler that does not vectorise adds a block's terms one after the other.
S2FT_INLINE double row_sum_exp(const float* x, int64_t n, float max) {
  constexpr int64_t kBlock = 256;
  double sum = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = n - begin < kBlock ? n : begin + kBlock;
    float part = 0;
#pragma omp simd reduction(+ : part)
    for (int64_t j = begin; j < end; ++j) part += fast_exp(x[j] - max);
    sum += double(part);
  }
  return sum;
}

// d may start at x's address with narrower elements. A block is read whole before it is
// written, and writing block b reaches no byte of the blocks after it; the barriers keep
// the compiler, to which float and bf16 never alias, from reordering that.
template <class D>
S2FT_INLINE void row_gradient(D* d, const float* x, int64_t n, float max, float factor) {
  constexpr int64_t kBlock = 512;
  float block[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t m = n - begin < kBlock ? n - begin : kBlock;
    const float* source = x + begin;
    D* target = d + begin;
#pragma omp simd
    for (int64_t j = 0; j < m; ++j) block[j] = fast_exp(source[j] - max) * factor;
    asm volatile("" ::: "memory");
#pragma omp simd
    for (int64_t j = 0; j < m; ++j) put(target, j, block[j]);
    asm volatile("" ::: "memory");
  }
}

}  // namespace

void cross_entropy(float* nll, Mat dlogits, Mat logits, const int32_t* targets,
                   float gradient_scale) {
  const int64_t n = logits.cols;
  split(logits.rows, logits.count(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* x = row<float>(logits, i);
      const int32_t target = targets[i];
      assert(target >= 0 && target < n);
      const float max = row_max(x, n);
      const double exact_sum = row_sum_exp(x, n, max);
      const float sum = float(exact_sum);
      const float at_target = x[target];
      nll[i] = float(std::log(exact_sum) + (double(max) - double(at_target)));
      if (!dlogits) continue;
      // softmax - 1 at the target, from the f32 probability before any rounding.
      const float probability = fast_exp(at_target - max) / sum;
      const float hit = (probability - 1.0f) * gradient_scale;
      with_type(dlogits.dtype, [&](auto* type) {
        using D = S2FT_TYPE_OF(type);
        D* d = row<D>(dlogits, i);
        row_gradient(d, x, n, max, gradient_scale / sum);
        put(d, target, hit);
      });
    }
  });
}

}  // namespace s2ft::S2FT_ISA
