// Attention of packed sequences, forward and gradient, written as the formulas stand, in
// double, with for every result the sum of the sizes of its terms: what rounding scales
// with.
#pragma once

#include <cmath>
#include <vector>

#include "cpu/kernels/kernels.h"

namespace s2ft::test {

/// A matrix of doubles.
struct Table {
  int64_t cols = 0;
  std::vector<double> x;
  Table() = default;
  Table(int64_t rows, int64_t c) : cols(c), x(size_t(rows * c)) {}
  double& operator()(int64_t i, int64_t j) { return x[size_t(i * cols + j)]; }
  double operator()(int64_t i, int64_t j) const { return x[size_t(i * cols + j)]; }
};

struct ReferenceForward {
  Table o, lse;
};

/// Weights of query `j` of sequence `s` for `head` over the keys [begin, ...) it sees.
struct Weights {
  int64_t begin = 0;
  std::vector<double> p;
  double lse = 0;
};

inline Weights reference_weights(const Table& q, const Table& k, const Sequences& s,
                                 const AttentionShape& shape, int sequence, int64_t j,
                                 int head) {
  const int hd = shape.head_dim;
  const int64_t n = s.q[sequence + 1] - s.q[sequence];
  const int64_t last = s.k_len[sequence] - n + j;
  Weights w;
  w.begin = shape.window ? std::max<int64_t>(0, last - shape.window + 1) : 0;
  double top = -INFINITY;
  for (int64_t key = w.begin; key <= last; ++key) {
    double score = 0;
    for (int d = 0; d < hd; ++d) {
      score += q(s.q[sequence] + j, head * hd + d) *
               k(s.k_begin[sequence] + key, shape.kv_head_of[head] * hd + d);
    }
    w.p.push_back(score * shape.scale);
    top = std::max(top, w.p.back());
  }
  double sum = 0;
  for (double& x : w.p) sum += x = std::exp(x - top);
  for (double& x : w.p) x /= sum;
  w.lse = top + std::log(sum);
  return w;
}

inline ReferenceForward reference_forward(const Table& q, const Table& k, const Table& v,
                                          const Sequences& s, const AttentionShape& shape,
                                          int64_t rows) {
  const int hd = shape.head_dim;
  ReferenceForward y{Table(rows, shape.heads * hd), Table(rows, shape.heads)};
  for (int i = 0; i < s.count; ++i) {
    for (int64_t j = 0; j < s.q[i + 1] - s.q[i]; ++j) {
      for (int h = 0; h < shape.heads; ++h) {
        const Weights w = reference_weights(q, k, s, shape, i, j, h);
        y.lse(s.q[i] + j, h) = w.lse;
        for (size_t t = 0; t < w.p.size(); ++t) {
          for (int d = 0; d < hd; ++d) {
            y.o(s.q[i] + j, h * hd + d) += w.p[t] * v(s.k_begin[i] + w.begin + int64_t(t),
                                                      shape.kv_head_of[h] * hd + d);
          }
        }
      }
    }
  }
  return y;
}

struct ReferenceGradients {
  Table dq, dk, dv;
  Table dq_size, dk_size, dv_size;  // sums of the sizes of the terms
};

/// d v = P' d o, d S = P (d o v' - rowsum(d o * o)), d q = scale dS k, d k = scale dS' q.
inline ReferenceGradients reference_backward(const Table& d_o, const Table& q,
                                             const Table& k, const Table& v,
                                             const Table& o, const Sequences& s,
                                             const AttentionShape& shape, int64_t rows) {
  const int hd = shape.head_dim;
  const int64_t wide = shape.heads * hd, narrow = shape.kv_heads * hd;
  ReferenceGradients g{Table(rows, wide), Table(rows, narrow), Table(rows, narrow),
                       Table(rows, wide), Table(rows, narrow), Table(rows, narrow)};
  for (int i = 0; i < s.count; ++i) {
    for (int64_t j = 0; j < s.q[i + 1] - s.q[i]; ++j) {
      for (int h = 0; h < shape.heads; ++h) {
        const int64_t row = s.q[i] + j, hq = h * hd, hk = shape.kv_head_of[h] * hd;
        const Weights w = reference_weights(q, k, s, shape, i, j, h);
        double delta = 0, delta_size = 0;
        for (int d = 0; d < hd; ++d) {
          delta += d_o(row, hq + d) * o(row, hq + d);
          delta_size += std::fabs(d_o(row, hq + d) * o(row, hq + d));
        }
        for (size_t t = 0; t < w.p.size(); ++t) {
          const int64_t key = s.k_begin[i] + w.begin + int64_t(t);
          double dp = 0, dp_size = 0;
          for (int d = 0; d < hd; ++d) {
            dp += d_o(row, hq + d) * v(key, hk + d);
            dp_size += std::fabs(d_o(row, hq + d) * v(key, hk + d));
          }
          const double ds = shape.scale * w.p[t] * (dp - delta);
          const double size = std::fabs(shape.scale) * w.p[t] * (dp_size + delta_size);
          for (int d = 0; d < hd; ++d) {
            g.dv(key, hk + d) += w.p[t] * d_o(row, hq + d);
            g.dv_size(key, hk + d) += w.p[t] * std::fabs(d_o(row, hq + d));
            g.dq(row, hq + d) += ds * k(key, hk + d);
            g.dq_size(row, hq + d) += size * std::fabs(k(key, hk + d));
            g.dk(key, hk + d) += ds * q(row, hq + d);
            g.dk_size(key, hk + d) += size * std::fabs(q(row, hq + d));
          }
        }
      }
    }
  }
  return g;
}

}  // namespace s2ft::test
