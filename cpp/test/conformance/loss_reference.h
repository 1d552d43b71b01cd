// The cross entropy of a row in double.
#pragma once

#include "test/conformance/support.h"

namespace s2ft::test {

inline double nll_reference(const Host& x, int64_t i, int32_t target, Host* softmax) {
  double max = x(i, 0), sum = 0;
  for (int64_t j = 0; j < x.cols; ++j) max = std::max(max, x(i, j));
  for (int64_t j = 0; j < x.cols; ++j) sum += std::exp(x(i, j) - max);
  if (softmax) {
    for (int64_t j = 0; j < x.cols; ++j) (*softmax)(i, j) = std::exp(x(i, j) - max) / sum;
  }
  return std::log(sum) + max - x(i, target);
}

inline std::vector<int32_t> random_targets(int64_t n, int64_t vocabulary) {
  std::vector<int32_t> targets(static_cast<size_t>(n));
  for (int32_t& t : targets) t = int32_t(rng().below(uint64_t(vocabulary)));
  return targets;
}

}  // namespace s2ft::test
