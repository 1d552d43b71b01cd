// What the softmax over blocks of a vocabulary carries from one to the next.
#pragma once

#include <cstdint>

namespace s2ft {

/// Columns of a block at most.
inline constexpr int64_t kSoftmaxColumns = 768;

/// One element a row.
struct OnlineSoftmax {
  float* max;     // what exponents are taken below
  double* sum;    // of exp(logit - max) so far
  float* target;  // the target's logit
};

}  // namespace s2ft
