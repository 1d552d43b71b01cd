#include "cpu/rank_logits.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace s2ft {

void rank_logits(const Ranking& to, Mat logits, const LogitChange* changes, int64_t count,
                 const float* temperatures) {
  for (int64_t i = 0; i < count; ++i) {
    const LogitChange& c = changes[i];
    float& x = logits.as<float>()[c.row * logits.ld + c.token];
    to.before[i] = x;
    x = c.of(x);
  }
#pragma omp parallel for schedule(dynamic) if (logits.rows > 1)
  for (int64_t i = 0; i < logits.rows; ++i) {
    const float* x = logits.as<float>() + i * logits.ld;
    std::vector<int32_t> order(static_cast<size_t>(logits.cols));
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(
        order.begin(), order.begin() + to.k, order.end(),
        [x](int32_t a, int32_t b) { return x[a] != x[b] ? x[a] > x[b] : a < b; });
    for (int64_t r = 0; r < to.k; ++r) {
      to.tokens[i * to.k + r] = order[size_t(r)];
      to.values[i * to.k + r] = x[order[size_t(r)]];
    }
    double mass = 0;
    if (temperatures[i] > 0) {
      const double top = x[order[0]];
      for (int64_t t = 0; t < logits.cols; ++t)
        mass += std::exp((double(x[t]) - top) / temperatures[i]);
    }
    to.masses[i] = mass;
  }
}

}  // namespace s2ft
