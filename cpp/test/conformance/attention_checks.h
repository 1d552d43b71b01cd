// What is asked of attention, forward and gradient, for one problem: near the formulas,
// and nothing written beside the results.
#pragma once

#include "test/attention_problem.h"

namespace s2ft::test {

inline Table to_table(const Host& h) {
  Table t(h.rows, h.cols);
  t.x = h.v;
  return t;
}

/// q, k and v on the host and on the device. Distances between rows differ, and are
/// multiples of eight elements where `gap` is one: what wide loads need.
struct AttentionInputs {
  Host q, k, v;
  Device dq, dk, dv;

  AttentionInputs(Backend& b, const Problem& p, DType t, int64_t gap, double size = 1)
      : q(random(p.rows, p.heads * p.head_dim, t, size)),
        k(random(p.key_rows, p.kv_heads * p.head_dim, t)),
        v(random(p.key_rows, p.kv_heads * p.head_dim, t)),
        dq(b, t, q, gap),
        dk(b, t, k, 2 * gap),
        dv(b, t, v, gap) {}
};

inline std::string attention_label(const NamedBackend& b, DType t, const Problem& p) {
  return b.name + " attention " + dtype_name(t) + " " + p.text() + ": ";
}

/// Who computes attention: the backend, where a test does not say otherwise.
struct Attention {
  virtual ~Attention() = default;
  virtual void forward(Backend& b, Mat o, Mat lse, Mat q, Mat k, Mat v,
                       const Sequences& s, const AttentionShape& shape) {
    b.attention(o, lse, q, k, v, s, shape);
  }
  virtual void backward(Backend& b, Mat dq, Mat dk, Mat dv, Mat d_o, Mat q, Mat k, Mat v,
                        Mat o, Mat lse, const Sequences& s, const AttentionShape& shape) {
    b.attention_backward(dq, dk, dv, d_o, q, k, v, o, lse, s, shape);
  }
};

/// Largest |v|, which bounds o; and sums of sizes of the scores' terms.
inline void forward_sizes(const AttentionInputs& in, const Problem& p, Table& o_size,
                          Table& lse_size) {
  double v_most = 0, k_most = 0;
  for (double x : in.v.v) v_most = std::max(v_most, std::fabs(x));
  for (double x : in.k.v) k_most = std::max(k_most, std::fabs(x));
  for (double& x : o_size.x) x = v_most;
  for (int64_t i = 0; i < p.rows; ++i) {
    for (int h = 0; h < p.heads; ++h) {
      double sum = 0;
      for (int d = 0; d < p.head_dim; ++d)
        sum += std::fabs(in.q(i, h * p.head_dim + d)) * k_most;
      lse_size(i, h) = 1 + sum / std::sqrt(double(p.head_dim));
    }
  }
}

inline void check_attention(const NamedBackend& named, const Problem& p, DType t,
                            int64_t gap, double size = 1, bool with_lse = true,
                            Attention&& attention = {}) {
  Backend& b = *named.backend;
  const AttentionInputs in(b, p, t, gap, size);
  Device o(b, t, p.rows, p.heads * p.head_dim, gap);
  Device lse(b, DType::f32, p.rows, p.heads, gap);
  attention.forward(b, o, with_lse ? lse.view() : Mat{}, in.dq, in.dk, in.dv,
                    p.sequences(), p.shape());
  const ReferenceForward want = reference_forward(
      to_table(in.q), to_table(in.k), to_table(in.v), p.sequences(), p.shape(), p.rows);
  Table o_size(p.rows, p.heads * p.head_dim), lse_size(p.rows, p.heads);
  forward_sizes(in, p, o_size, lse_size);
  const std::string what = attention_label(named, t, p);
  // An error of a score moves its weight by as much of itself.
  const double o_relative = tolerance(t) * (t == DType::f32 ? std::max(1.0, size) : 1) +
                            (t == DType::bf16 ? kF32 * size : 0);
  check_near(what + "o", to_table(o.read(what)), want.o, o_size, o_relative, 0);
  if (with_lse)
    check_near(what + "lse", to_table(lse.read(what)), want.lse, lse_size, kF32, 0);
}

inline void check_attention_backward(const NamedBackend& named, const Problem& p, DType t,
                                     int64_t gap, Attention&& attention = {}) {
  Backend& b = *named.backend;
  const AttentionInputs in(b, p, t, gap);
  const int64_t wide = p.heads * p.head_dim, narrow = p.kv_heads * p.head_dim;
  const Host d_o = random(p.rows, wide, t);
  Device dd(b, t, d_o, gap), o(b, t, p.rows, wide, gap);
  Device lse(b, DType::f32, p.rows, p.heads);
  Device dq(b, t, p.rows, wide, 2 * gap), dk(b, t, p.rows, narrow, gap);
  Device dv(b, t, p.rows, narrow, 3 * gap);
  attention.forward(b, o, lse, in.dq, in.dk, in.dv, p.sequences(), p.shape());
  attention.backward(b, dq, dk, dv, dd, in.dq, in.dk, in.dv, o, lse, p.sequences(),
                     p.shape());
  const Table q = to_table(in.q), k = to_table(in.k), v = to_table(in.v);
  const ReferenceForward y = reference_forward(q, k, v, p.sequences(), p.shape(), p.rows);
  const ReferenceGradients want =
      reference_backward(to_table(d_o), q, k, v, y.o, p.sequences(), p.shape(), p.rows);
  const std::string what = attention_label(named, t, p);
  // Far below any gradient here: only where every term is zero is the bound zero.
  const double floor = 1e-12;
  check_near(what + "dq", to_table(dq.read(what)), want.dq, want.dq_size, tolerance(t),
             floor);
  check_near(what + "dk", to_table(dk.read(what)), want.dk, want.dk_size, tolerance(t),
             floor);
  check_near(what + "dv", to_table(dv.read(what)), want.dv, want.dv_size, tolerance(t),
             floor);
}

}  // namespace s2ft::test
