// What tests of attention share beside the formulas: random shapes, and how close results
// must come.
#pragma once

#include "test/attention_reference.h"
#include "test/conformance/support.h"

namespace s2ft::test {

inline int pick(int low, int high) {
  return low + int(rng().below(uint64_t(high - low + 1)));
}

/// One call's shapes: sequences packed at random places, heads mapped at random.
struct Problem {
  int heads, kv_heads, head_dim, window;
  std::vector<int> query_lengths, key_lengths;
  std::vector<int32_t> kv_head_of, q, k_begin, k_len;
  int64_t rows = 0, key_rows = 0;

  Problem(int heads_, int kv_heads_, int head_dim_, int window_, std::vector<int> queries,
          int most_cached = 0)
      : heads(heads_), kv_heads(kv_heads_), head_dim(head_dim_), window(window_) {
    for (int h = 0; h < heads; ++h) kv_head_of.push_back(pick(0, kv_heads - 1));
    q.push_back(0);
    for (int n : queries) {
      const int cached = most_cached ? pick(0, most_cached) : 0;
      if (most_cached) key_rows += pick(0, 3);
      k_begin.push_back(int32_t(key_rows));
      k_len.push_back(n + cached);
      key_rows += n + cached;
      rows += n;
      q.push_back(int32_t(rows));
    }
  }
  /// Heads in the order of their key/value heads, as a model has them before training.
  Problem in_order() const {
    Problem p = *this;
    for (int h = 0; h < heads; ++h) p.kv_head_of[size_t(h)] = h / (heads / kv_heads);
    return p;
  }
  Sequences sequences() const {
    return {int(k_len.size()), q.data(), k_begin.data(), k_len.data()};
  }
  AttentionShape shape() const {
    return {heads,    kv_heads,
            head_dim, kv_head_of.data(),
            window,   1 / std::sqrt(float(head_dim))};
  }
  std::string text() const {
    std::string s = std::to_string(heads) + "/" + std::to_string(kv_heads) +
                    " heads of " + std::to_string(head_dim) + ", window " +
                    std::to_string(window) + ", lengths";
    for (size_t i = 0; i < k_len.size(); ++i) {
      s += " " + std::to_string(q[i + 1] - q[i]) + ":" + std::to_string(k_len[i]);
    }
    return s;
  }
};

// In f32, a sum of n terms in blocks, exp (2 ulp) and the score's own rounding (a score
// of size s moves its weight by s * 2^-24 of itself) stay within some tens of roundings
// of the terms' sizes for these lengths; 64 leaves no room for a wrong formula.
const double kF32 = 64 * std::ldexp(1.0, -24);
// bf16 rounds by at most 2^-8 of the value. Weights or dS may be rounded so before they
// are multiplied, o before d o * o, and every result once: three roundings at most.
const double kBf16 = 3 * std::ldexp(1.0, -8) + kF32;

inline double tolerance(DType t) {
  return t == DType::f32 ? kF32 : kBf16;
}

/// |found - expected| <= relative * size + floor, everywhere; reports the worst.
inline void check_near(const std::string& what, const Table& found, const Table& expected,
                       const Table& size, double relative, double floor) {
  const int64_t rows = found.cols ? int64_t(found.x.size()) / found.cols : 0;
  double worst = 0;
  int64_t at_row = 0, at_col = 0;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < found.cols; ++j) {
      const double allowed = relative * size(i, j) + floor;
      const double error = std::fabs(found(i, j) - expected(i, j));
      const double share = std::isnan(error) ? INFINITY : error / allowed;
      if (share > worst) worst = share, at_row = i, at_col = j;
    }
  }
  if (worst > 1) {
    fail(__FILE__, __LINE__,
         what + ": error is " + std::to_string(worst) + " of what is allowed at " +
             std::to_string(at_row) + ", " + std::to_string(at_col) + " (found " +
             std::to_string(found(at_row, at_col)) + ", expected " +
             std::to_string(expected(at_row, at_col)) + ")");
  }
}

inline std::vector<int> random_lengths(int count, int longest) {
  std::vector<int> lengths;
  for (int i = 0; i < count; ++i) {
    lengths.push_back(pick(0, 3) ? pick(1, longest) : 1);
  }
  return lengths;
}

inline Problem random_problem(int head_dim, int window, int longest, int most_cached) {
  const int kv_heads = pick(1, 3);
  return Problem(pick(1, 7), kv_heads, head_dim, window,
                 random_lengths(pick(1, 4), longest), most_cached);
}

}  // namespace s2ft::test
