// Softmax over a vocabulary that arrives a block at a time: a row's largest logit and sum
// of exponentials so far, and the gradient that follows from them at the end.
#include "cpu/kernels/online_softmax.h"

#include <cmath>

#include "cpu/kernels/loops.h"
#include "cpu/kernels/ops.h"

namespace s2ft::S2FT_ISA {
namespace {

// Exponentials may exceed 1 by e^kSlack before sums are brought to a new maximum: rows
// rise often in their first blocks, and f32 and bf16 are as exact there as below 1.
constexpr float kSlack = 8;

S2FT_INLINE float exponential(float x) {
  return exp(splat(x))[0];
}

/// What was summed under the old maximum, under the new one.
S2FT_INLINE void rescale(const Mat& total, int64_t i, OnlineSoftmax rows, float max) {
  const float factor = exponential(rows.max[i] - max);
  rows.sum[i] *= double(factor);
  rows.max[i] = max;
  if (!total) return;
  float* t = row<float>(total, i);
  lanes(0, total.cols,
        [&](int64_t j, auto some) { give(t + j, take(t + j, some) * factor, some); });
}

/// terms = exp(x - max), which are summed.
S2FT_INLINE float exponentials(float* terms, const float* x, int64_t n, float max) {
  vf total{};
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    const vf term = exp(load(x + j) - max);
    store(terms + j, term);
    total += term;
  }
  float rest = 0;
  for (; j < n; ++j) rest += terms[j] = exponential(x[j] - max);
  return sum(total) + rest;
}

}  // namespace

void online_softmax(Mat terms, Mat logits, Mat total, const int32_t* targets,
                    int64_t first_column, OnlineSoftmax rows) {
  const int64_t n = logits.cols;
  split(logits.rows, logits.count(), 1, [&](int64_t begin, int64_t end) {
    float staged[kSoftmaxColumns];
    for (int64_t i = begin; i < end; ++i) {
      const float* x = row<float>(logits, i);
      const float max = row_max(x, n);
      if (first_column == 0) {
        rows.max[i] = max;
        rows.sum[i] = 0;
      } else if (max > rows.max[i] + kSlack) {
        rescale(total, i, rows, max);
      }
      rows.sum[i] += double(exponentials(staged, x, n, rows.max[i]));
      const int64_t target = targets[i] - first_column;
      if (target >= 0 && target < n) {
        rows.target[i] = x[target];
        staged[target] = 0;
      }
      if (!terms) continue;
      with_type(terms.dtype, [&](auto* type) {
        using T = S2FT_TYPE_OF(type);
        T* to = row<T>(terms, i);
        lanes(0, n,
              [&](int64_t j, auto some) { give(to + j, take(staged + j, some), some); });
      });
    }
  });
}

void finish_softmax(float* nll, Mat dx, Mat total, Mat w, const int32_t* targets,
                    float gradient_scale, OnlineSoftmax rows) {
  split(total.rows, total.count(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const double below = double(rows.max[i]) - double(rows.target[i]);
      nll[i] = float(std::log(rows.sum[i]) + below);
      if (!dx) continue;
      const float sum = float(rows.sum[i]);
      const float hit = exponential(rows.target[i] - rows.max[i]) / sum - 1;
      const vf share = splat(gradient_scale / sum),
               at_target = splat(hit * gradient_scale);
      const float* t = row<float>(total, i);
      with_type(dx.dtype, [&](auto* type) {
        using T = S2FT_TYPE_OF(type);
        T* d = row<T>(dx, i);
        const T* v = row<T>(w, targets[i]);
        lanes(0, dx.cols, [&](int64_t j, auto some) {
          give(d + j, fma(take(v + j, some), at_target, take(t + j, some) * share), some);
        });
      });
    }
  });
}

}  // namespace s2ft::S2FT_ISA
