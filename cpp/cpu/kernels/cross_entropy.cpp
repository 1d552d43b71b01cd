// Softmax cross entropy over a large vocabulary, loss and gradient, one row a time.
#include <cassert>
#include <cmath>

#include "cpu/kernels/loops.h"
#include "cpu/kernels/ops.h"

namespace s2ft::S2FT_ISA {
namespace {

S2FT_INLINE vf existing(vf x, AllLanes) {
  return x;
}
S2FT_INLINE vf existing(vf x, SomeLanes some) {
  return kIota < some.n ? x : vf{};
}

constexpr int64_t kBlock = 512;

// In blocks: a vocabulary of 100,000 terms in one f32 sum would lose two digits. The
// terms go to `terms` where it is given; it may be x.
S2FT_INLINE double row_sum_exp(float* terms, const float* x, int64_t n, float max) {
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = min_of(begin + kBlock, n);
    vf part{};
    lanes(begin, end, [&](int64_t j, auto some) {
      vf term = exp(take(x + j, some) - max);
      if (terms) give(terms + j, term, some);
      part += existing(term, some);
    });
    total += double(sum(part));
  }
  return total;
}

// d = exp(x - max) * factor, or x * factor where x holds the terms already. d may start
// at x's address with narrower elements: a block is read whole before it is written, and
// writing block b reaches no byte of the blocks after it; the barriers keep the compiler,
// to which float and bf16 never alias, from reordering that.
template <class D>
S2FT_INLINE void row_gradient(D* d, const float* x, int64_t n, bool terms, float max,
                              float factor) {
  float block[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t m = min_of(kBlock, n - begin);
    lanes(0, m, [&](int64_t j, auto some) {
      const vf v = take(x + begin + j, some);
      store(block + j, (terms ? v : exp(v - max)) * factor);
    });
    asm volatile("" ::: "memory");
    lanes(0, m,
          [&](int64_t j, auto some) { give(d + begin + j, load(block + j), some); });
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
      const float at_target = x[target];
      // Logits that the gradient will cover need not be kept until then.
      const bool terms = dlogits.data && dlogits.data == logits.data;
      const double exact_sum =
          row_sum_exp(terms ? row<float>(logits, i) : nullptr, x, n, max);
      const float sum = float(exact_sum);
      nll[i] = float(std::log(exact_sum) + (double(max) - double(at_target)));
      if (!dlogits) continue;
      // softmax - 1 at the target, from the f32 probability before any rounding.
      const float probability = exp(splat(at_target - max))[0] / sum;
      const float hit = (probability - 1.0f) * gradient_scale;
      with_type(dlogits.dtype, [&](auto* type) {
        using D = S2FT_TYPE_OF(type);
        D* d = row<D>(dlogits, i);
        row_gradient(d, x, n, terms, max, gradient_scale / sum);
        put(d, target, hit);
      });
    }
  });
}

}  // namespace s2ft::S2FT_ISA
