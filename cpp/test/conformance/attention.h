// Conformance of attention, forward and gradient: sequences of many lengths, windows,
// head sizes and head maps, cached keys and decoding, in ordinary matrices and in views.
#pragma once

#include <tuple>

#include "test/conformance/attention_checks.h"

namespace s2ft::test {

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

// What a backend may leave to a library that knows nothing else.
TEST(attention_of_equally_long_sequences) {
  for_each_attention([](const NamedBackend& b, DType t) {
    for (const auto& [heads, kv_heads, head_dim] :
         {std::tuple(4, 4, 64), std::tuple(6, 2, 128), std::tuple(2, 1, 96)}) {
      for (int tokens : {1, 77, long_length(130)}) {
        const Problem p =
            Problem(heads, kv_heads, head_dim, 0, {tokens, tokens, tokens}).in_order();
        check_attention(b, p, t, 8);
        check_attention_backward(b, p, t, 8);
      }
    }
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
                             Problem(6, 3, 32, 40, {90, 1, 40, 77, 13, 65}),
                             Problem(4, 2, 64, 0, {100, 100}).in_order()}) {
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
