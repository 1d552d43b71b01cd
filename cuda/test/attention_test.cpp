// Attention's conformance on CUDA, and what only its kernels promise.
#include "test/conformance/attention.h"

#include "cuda/test/backends.h"

#ifdef S2FT_CUDA_EMULATION
#include "cuda/emulation/block.h"
#endif

using namespace s2ft;
using namespace s2ft::test;

const std::vector<NamedBackend>& s2ft::test::backends_under_test() {
  return cuda_backends();
}

namespace {

/// The rows of one sequence of a problem as a problem of their own.
Problem alone(const Problem& p, int sequence) {
  Problem one = p;
  one.q = {0, p.q[size_t(sequence) + 1] - p.q[size_t(sequence)]};
  one.k_begin = {p.k_begin[size_t(sequence)]};
  one.k_len = {p.k_len[size_t(sequence)]};
  return one;
}

}  // namespace

TEST(a_sequence_does_not_depend_on_those_beside_it) {
  for_each_attention([](const NamedBackend& named, DType t) {
    Backend& b = *named.backend;
    const Problem p(4, 2, 64, 0, {1, long_length(130), 2, 20, 1}, long_length(1400));
    const AttentionInputs in(b, p, t, 0);
    Device o(b, t, p.rows, p.heads * p.head_dim);
    b.attention(o, Mat{}, in.dq, in.dk, in.dv, p.sequences(), p.shape());
    const Host all = o.read("all");
    for (int i = 0; i < int(p.k_len.size()); ++i) {
      const Problem one = alone(p, i);
      const int64_t row = p.q[size_t(i)], n = one.q[1];
      Device o1(b, t, n, p.heads * p.head_dim);
      b.attention(o1, Mat{}, in.dq.view().row_range(row, n), in.dk, in.dv,
                  one.sequences(), one.shape());
      Host part(n, all.cols);
      std::copy(all.v.begin() + row * all.cols, all.v.begin() + (row + n) * all.cols,
                part.v.begin());
      expect_equal(o1.read("one"), part, attention_label(named, t, one));
    }
  });
}

TEST(pages_give_the_bits_of_keys_in_one_piece) {
  for_each_attention([](const NamedBackend& named, DType t) {
    Backend& b = *named.backend;
    for (int page_rows : {16, 48, 256}) {
      for (int window : {0, 50}) {
        if (brief_attention() && (page_rows == 256 || window)) continue;
        const Problem p(4, 2, 64, window, {1, 30, 3, long_length(90)}, 700);
        const AttentionInputs in(b, p, t, 0);
        Device o(b, t, p.rows, p.heads * p.head_dim);
        b.attention(o, Mat{}, in.dq, in.dk, in.dv, p.sequences(), p.shape());
        std::vector<int32_t> page_begin;
        int32_t pages = 0;
        for (int32_t keys : p.k_len) {
          page_begin.push_back(pages);
          pages += (keys + page_rows - 1) / page_rows;
        }
        const std::vector<int32_t> order = random_order(pages);
        Host k(pages * page_rows, in.k.cols, NAN), v = k;
        for (size_t i = 0; i < p.k_len.size(); ++i) {
          for (int32_t j = 0; j < p.k_len[i]; ++j) {
            const int64_t page = order[size_t(page_begin[i] + j / page_rows)];
            const int64_t to = page * page_rows + j % page_rows, from = p.k_begin[i] + j;
            for (int64_t c = 0; c < k.cols; ++c) {
              k(to, c) = in.k(from, c);
              v(to, c) = in.v(from, c);
            }
          }
        }
        Device dk(b, t, k), dv(b, t, v), o_paged(b, t, p.rows, p.heads * p.head_dim);
        Sequences s = p.sequences();
        s.pages = order.data();
        s.page_begin = page_begin.data();
        s.page_rows = page_rows;
        s.k_begin = nullptr;
        b.attention(o_paged, Mat{}, in.dq, dk, dv, s, p.shape());
        expect_equal(o_paged.read("paged"), o.read("in one piece"),
                     attention_label(named, t, p) + std::to_string(page_rows));
      }
    }
  });
}

#ifdef S2FT_CUDA_EMULATION
TEST(attention_does_not_depend_on_the_order_of_threads) {
  for (unsigned order : {1u, 2u, 3u}) {
    if (brief_attention() && order == 3) continue;
    cuda::emulation::set_order(order);
    for_each_attention([](const NamedBackend& b, DType t) {
      const Problem p(5, 2, 40, 30, {70, 3, 1}), decoding(5, 2, 40, 0, {1, 2}, 1200);
      check_attention(b, p, t, 0);
      check_attention(b, decoding, t, 0);
      check_attention_backward(b, p, t, 0);
    });
  }
  cuda::emulation::set_order(0);
}
#endif
