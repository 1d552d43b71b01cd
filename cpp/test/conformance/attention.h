// Conformance of attention, forward and gradient: sequences of many lengths, windows,
// head sizes and head maps, cached keys and decoding, in ordinary matrices and in views.
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
                            int64_t gap, double size = 1, bool with_lse = true) {
  Backend& b = *named.backend;
  const AttentionInputs in(b, p, t, gap, size);
  Device o(b, t, p.rows, p.heads * p.head_dim, gap);
  Device lse(b, DType::f32, p.rows, p.heads, gap);
  b.attention(o, with_lse ? lse.view() : Mat{}, in.dq, in.dk, in.dv, p.sequences(),
              p.shape());
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
                                     int64_t gap) {
  Backend& b = *named.backend;
  const AttentionInputs in(b, p, t, gap);
  const int64_t wide = p.heads * p.head_dim, narrow = p.kv_heads * p.head_dim;
  const Host d_o = random(p.rows, wide, t);
  Device dd(b, t, d_o, gap), o(b, t, p.rows, wide, gap);
  Device lse(b, DType::f32, p.rows, p.heads);
  Device dq(b, t, p.rows, wide, 2 * gap), dk(b, t, p.rows, narrow, gap);
  Device dv(b, t, p.rows, narrow, 3 * gap);
  b.attention(o, lse, in.dq, in.dk, in.dv, p.sequences(), p.shape());
  b.attention_backward(dq, dk, dv, dd, in.dq, in.dk, in.dv, o, lse, p.sequences(),
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

/// Fewer and shorter cases, for builds that look at every access.
inline bool brief_attention() {
  static const bool given = std::getenv("S2FT_TEST_BRIEF") != nullptr;
  return given;
}

// Odd sizes, and every width that tiles are padded to with the first size after it.
inline const std::vector<int>& attention_head_dims() {
  static const std::vector<int> dims = {1,  6,  20,  33,  8,   32,  40,  64, 72,
                                        80, 96, 104, 128, 136, 192, 200, 256};
  static const std::vector<int> few = {20, 40, 64, 96, 256};
  return brief_attention() ? few : dims;
}
inline const std::vector<int>& attention_windows() {
  static const std::vector<int> windows = {0, 1, 3, 17, 100, 5000};
  static const std::vector<int> few = {0, 17};
  return brief_attention() ? few : windows;
}
/// A length that spans several tiles.
inline int long_length(int length) {
  return brief_attention() ? length / 2 : length;
}
inline int any_window() {
  const std::vector<int>& windows = attention_windows();
  return windows[size_t(pick(0, int(windows.size()) - 1))];
}
inline int64_t any_gap() {
  const int64_t gaps[] = {0, 8, 3};
  return gaps[pick(0, 2)];
}

template <class F>
void for_each_attention(F&& body) {
  for (const NamedBackend& b : backends_under_test())
    for (DType t : storage_types()) body(b, t);
}

TEST(attention_matches_the_formulas) {
  for_each_attention([](const NamedBackend& b, DType t) {
    for (int head_dim : attention_head_dims())
      check_attention(b, random_problem(head_dim, any_window(), 40, 0), t, any_gap());
    for (int window : attention_windows()) {
      check_attention(b, random_problem(64, window, 40, 0), t, 0);
      check_attention(b, random_problem(64, window, long_length(150), 0), t, 8);
    }
    check_attention(b, Problem(4, 2, 32, 0, {long_length(300)}), t, 0);
    check_attention(b, Problem(3, 1, 32, 70, {long_length(300)}), t, 8);
  });
}

TEST(attention_after_cached_keys) {
  for_each_attention([](const NamedBackend& b, DType t) {
    for (int window : attention_windows()) {
      check_attention(b, random_problem(24, window, 30, 200), t, 8);
      check_attention(b, random_problem(64, window, 3, 400), t, 0);
      // Decoding: one query a sequence.
      check_attention(b, Problem(6, 2, 64, window, std::vector<int>(5, 1), 300), t, 0);
    }
  });
}

TEST(attention_of_few_queries_and_many_keys) {
  for_each_attention([](const NamedBackend& b, DType t) {
    for (int window : {0, 100, 700}) {
      check_attention(b, Problem(6, 2, 64, window, {1, 4, 1, 16}, long_length(2000)), t,
                      0);
      if (brief_attention()) continue;
      check_attention(b, Problem(3, 3, 40, window, {1, 17, 2}, 1500), t, 8);
    }
    check_attention(b, Problem(4, 1, 64, 0, {2, 1}, 1800), t, 0, 1, false);
  });
}

TEST(attention_of_large_scores) {
  // Scores of several hundred: a softmax without the running maximum would overflow.
  for_each_attention([](const NamedBackend& b, DType t) {
    check_attention(b, random_problem(64, 0, 200, 50), t, 0, 100);
  });
}

TEST(attention_without_lse) {
  for_each_attention([](const NamedBackend& b, DType t) {
    check_attention(b, random_problem(32, 0, 50, 10), t, 0, 1, false);
  });
}

TEST(attention_backward_matches_the_formulas) {
  for_each_attention([](const NamedBackend& b, DType t) {
    for (int head_dim : attention_head_dims()) {
      check_attention_backward(b, random_problem(head_dim, any_window(), 40, 0), t,
                               any_gap());
    }
    for (int window : attention_windows()) {
      check_attention_backward(b, random_problem(64, window, 40, 0), t, 0);
      check_attention_backward(b, random_problem(64, window, long_length(150), 0), t, 8);
    }
    check_attention_backward(b, Problem(4, 2, 32, 0, {long_length(300)}), t, 0);
    check_attention_backward(b, Problem(3, 1, 32, 70, {long_length(259), 5}), t, 8);
  });
}

TEST(attention_where_a_key_value_head_is_not_used) {
  for_each_attention([](const NamedBackend& b, DType t) {
    Problem p(3, 4, 16, 0, {20, 7});
    p.kv_head_of = {3, 0, 3};
    check_attention(b, p, t, 0);
    check_attention_backward(b, p, t, 0);
  });
}

TEST(attention_of_no_sequences) {
  for_each_attention([](const NamedBackend& b, DType t) {
    Problem none(2, 1, 8, 0, {});
    check_attention(b, none, t, 0);
    check_attention_backward(b, none, t, 0);
    Problem with_empty(2, 1, 8, 0, {3, 0, 4});
    check_attention(b, with_empty, t, 0);
    check_attention_backward(b, with_empty, t, 0);
  });
}

TEST(attention_repeats_its_bits) {
  for_each_attention([](const NamedBackend& named, DType t) {
    Backend& b = *named.backend;
    for (const Problem& p : {Problem(6, 2, 32, 0, {long_length(301)}),
                             Problem(6, 3, 32, 40, {90, 1, 40, 77, 13, 65})}) {
      const AttentionInputs in(b, p, t, 0);
      const int64_t wide = p.heads * p.head_dim, narrow = p.kv_heads * p.head_dim;
      Device dd(b, t, random(p.rows, wide, t));
      std::vector<Host> first;
      for (int repeat = 0; repeat < 2; ++repeat) {
        Device o(b, t, p.rows, wide), lse(b, DType::f32, p.rows, p.heads);
        Device dq(b, t, p.rows, wide), dk(b, t, p.rows, narrow), dv(b, t, p.rows, narrow);
        b.attention(o, lse, in.dq, in.dk, in.dv, p.sequences(), p.shape());
        b.attention_backward(dq, dk, dv, dd, in.dq, in.dk, in.dv, o, lse, p.sequences(),
                             p.shape());
        std::vector<Host> found;
        for (Device* d : {&o, &lse, &dq, &dk, &dv}) found.push_back(d->read(named.name));
        if (first.empty()) first = found;
        for (size_t i = 0; i < found.size(); ++i) {
          expect_equal(found[i], first[i],
                       attention_label(named, t, p) + std::to_string(i));
        }
      }
    }
  });
}

}  // namespace s2ft::test
