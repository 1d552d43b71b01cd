// Attention of every instruction set against the formulas in double, and those formulas'
// gradient against finite differences.
#include "check.h"
#include "kernel_fixture.h"
#include "test/attention_problem.h"

using namespace s2ft;
using namespace s2ft::test;

namespace {

Table table(const TestMat& m) {
  Table t(m.rows(), m.cols());
  for (int64_t i = 0; i < m.rows(); ++i) {
    for (int64_t j = 0; j < m.cols(); ++j) t(i, j) = m(i, j);
  }
  return t;
}

void check_table(const std::string& what, const TestMat& found, const Table& expected,
                 const Table& size, double relative, double floor) {
  check_near(what, table(found), expected, size, relative, floor);
  CHECK(found.gaps_intact());
}

struct Inputs {
  TestMat q, k, v;
  Inputs(const Problem& p, DType t, float size = 1)
      : q(t, p.rows, p.heads * p.head_dim, random_int(0, 3)),
        k(t, p.key_rows, p.kv_heads * p.head_dim, random_int(0, 3)),
        v(t, p.key_rows, p.kv_heads * p.head_dim, random_int(0, 3)) {
    q.randomize();
    k.randomize();
    v.randomize();
    for (int64_t i = 0; i < q.rows(); ++i) {
      for (int64_t j = 0; j < q.cols(); ++j) q.set(i, j, q(i, j) * size);
    }
  }
};

void check_forward(const NamedKernels& isa, const Problem& p, DType t, float size = 1,
                   bool with_lse = true) {
  Inputs in(p, t, size);
  TestMat o(t, p.rows, p.heads * p.head_dim, random_int(0, 3));
  TestMat lse(DType::f32, p.rows, p.heads, random_int(0, 3));
  Scratch scratch(isa.table->attention_scratch(p.shape()));
  isa.table->attention(o.mat(), with_lse ? lse.mat() : Mat{}, in.q.mat(), in.k.mat(),
                       in.v.mat(), p.sequences(), p.shape(), scratch.data());
  const ReferenceForward expected = reference_forward(
      table(in.q), table(in.k), table(in.v), p.sequences(), p.shape(), p.rows);
  Table one(p.rows, p.heads * p.head_dim), score(p.rows, p.heads);
  for (double& x : one.x) x = 1;  // |v| <= 1, and o is a mean of v
  // Scores are sums of head_dim products of at most `size`, times the scale.
  for (double& x : score.x) x = 1 + size * std::sqrt(double(p.head_dim));
  const std::string what = isa.name + " " + dtype_name(t) + " " + p.text() + ": ";
  check_table(what + "o", o, expected.o, one, tolerance(t) * (t == DType::f32 ? size : 1),
              0);
  // Products of two bf16 are exact in f32, so the log-sum-exp is as good in both types.
  if (with_lse) check_table(what + "lse", lse, expected.lse, score, kF32, 0);
}

void check_backward(const NamedKernels& isa, const Problem& p, DType t) {
  Inputs in(p, t);
  const int64_t wide = p.heads * p.head_dim, narrow = p.kv_heads * p.head_dim;
  TestMat o(t, p.rows, wide, random_int(0, 3)), lse(DType::f32, p.rows, p.heads);
  TestMat d_o(t, p.rows, wide, random_int(0, 3));
  d_o.randomize();
  TestMat dq(t, p.rows, wide, random_int(0, 3)), dk(t, p.rows, narrow, random_int(0, 3));
  TestMat dv(t, p.rows, narrow, random_int(0, 3));
  int longest = 0;
  for (int n : p.k_len) longest = std::max(longest, n);
  Scratch forward(isa.table->attention_scratch(p.shape()));
  isa.table->attention(o.mat(), lse.mat(), in.q.mat(), in.k.mat(), in.v.mat(),
                       p.sequences(), p.shape(), forward.data());
  Scratch scratch(isa.table->attention_backward_scratch(p.shape(), longest));
  isa.table->attention_backward(dq.mat(), dk.mat(), dv.mat(), d_o.mat(), in.q.mat(),
                                in.k.mat(), in.v.mat(), o.mat(), lse.mat(), p.sequences(),
                                p.shape(), scratch.data());
  const Table q = table(in.q), k = table(in.k), v = table(in.v);
  const ReferenceForward y = reference_forward(q, k, v, p.sequences(), p.shape(), p.rows);
  const ReferenceGradients g =
      reference_backward(table(d_o), q, k, v, y.o, p.sequences(), p.shape(), p.rows);
  const std::string what = isa.name + " " + dtype_name(t) + " " + p.text() + ": ";
  // Far below any gradient here: only where every term is zero is the bound zero.
  const double floor = 1e-12;
  check_table(what + "dq", dq, g.dq, g.dq_size, tolerance(t), floor);
  check_table(what + "dk", dk, g.dk, g.dk_size, tolerance(t), floor);
  check_table(what + "dv", dv, g.dv, g.dv_size, tolerance(t), floor);
}

const int kHeadDims[] = {1, 6, 20, 33, 64, 80, 96, 128};
const int kWindows[] = {0, 1, 3, 17, 100, 5000};

const DType kTypes[] = {DType::f32, DType::bf16};

}  // namespace

TEST(forward_matches_the_formulas) {
  for (const NamedKernels& isa : runnable_kernels()) {
    for (DType t : kTypes) {
      for (int head_dim : kHeadDims) {
        for (int window : kWindows) {
          check_forward(isa, random_problem(head_dim, window, 40, 0), t);
        }
      }
      check_forward(isa, random_problem(64, 0, 300, 0), t);
      check_forward(isa, random_problem(20, 70, 300, 0), t);
    }
  }
}

TEST(forward_after_cached_keys) {
  for (const NamedKernels& isa : runnable_kernels()) {
    for (DType t : kTypes) {
      for (int window : kWindows) {
        check_forward(isa, random_problem(20, window, 30, 200), t);
        check_forward(isa, random_problem(64, window, 3, 400), t);
        // Decoding: one query a sequence.
        check_forward(isa, Problem(6, 2, 64, window, std::vector<int>(5, 1), 300), t);
      }
    }
  }
}

TEST(forward_of_large_scores) {
  // Scores of several hundred: a softmax without the running maximum would overflow.
  for (const NamedKernels& isa : runnable_kernels()) {
    for (DType t : kTypes) check_forward(isa, random_problem(64, 0, 200, 50), t, 100);
  }
}

TEST(forward_without_lse) {
  for (const NamedKernels& isa : runnable_kernels()) {
    check_forward(isa, random_problem(20, 0, 50, 10), DType::f32, 1, false);
  }
}

TEST(reference_gradient_matches_finite_differences) {
  const Problem p(4, 2, 6, 5, {1, 9, 4});
  Inputs in(p, DType::f32);
  TestMat d_o(DType::f32, p.rows, p.heads * p.head_dim);
  d_o.randomize();
  Table x[3] = {table(in.q), table(in.k), table(in.v)};
  const Table d = table(d_o);
  auto loss = [&] {
    const ReferenceForward y =
        reference_forward(x[0], x[1], x[2], p.sequences(), p.shape(), p.rows);
    double sum = 0;
    for (size_t i = 0; i < d.x.size(); ++i) sum += d.x[i] * y.o.x[i];
    return sum;
  };
  const ReferenceForward y =
      reference_forward(x[0], x[1], x[2], p.sequences(), p.shape(), p.rows);
  const ReferenceGradients g =
      reference_backward(d, x[0], x[1], x[2], y.o, p.sequences(), p.shape(), p.rows);
  const Table* expected[3] = {&g.dq, &g.dk, &g.dv};
  for (int which = 0; which < 3; ++which) {
    for (size_t i = 0; i < x[which].x.size(); ++i) {
      const double step = 1e-5, value = x[which].x[i];
      x[which].x[i] = value + step;
      const double above = loss();
      x[which].x[i] = value - step;
      const double below = loss();
      x[which].x[i] = value;
      // The central difference errs by step^2 and by the loss's rounding over the step.
      CHECK_NEAR((above - below) / (2 * step), expected[which]->x[i], 1e-8);
    }
  }
}

TEST(backward_matches_the_formulas) {
  for (const NamedKernels& isa : runnable_kernels()) {
    for (DType t : kTypes) {
      for (int head_dim : kHeadDims) {
        for (int window : kWindows) {
          check_backward(isa, random_problem(head_dim, window, 40, 0), t);
        }
      }
      for (int i = 0; i < 3; ++i) {
        check_backward(isa, random_problem(20, i == 1 ? 70 : 0, 300, 0), t);
      }
      check_backward(isa, Problem(3, 1, 64, 0, {259}), t);
    }
  }
}

TEST(backward_by_teams_and_by_groups) {
  // Many short sequences run one group a thread, few long ones share it between threads.
  for (int threads : {1, 2, 3, 7, 9}) {
    Threads scope(threads);
    for (const NamedKernels& isa : runnable_kernels()) {
      for (DType t : kTypes) {
        check_backward(isa, Problem(5, 3, 16, 0, {150}), t);
        check_backward(isa, Problem(4, 2, 16, 9, {1, 70, 33}), t);
        check_backward(isa, Problem(3, 1, 8, 0, std::vector<int>(40, 5)), t);
      }
    }
  }
}

TEST(a_key_value_head_nobody_uses_gets_zero) {
  for (const NamedKernels& isa : runnable_kernels()) {
    for (DType t : kTypes) {
      Problem p(3, 4, 12, 0, {20, 7});
      p.kv_head_of = {3, 0, 3};
      check_forward(isa, p, t);
      check_backward(isa, p, t);
    }
  }
}

TEST(no_sequences) {
  for (const NamedKernels& isa : runnable_kernels()) {
    Problem none(2, 1, 8, 0, {});
    check_forward(isa, none, DType::f32);
    check_backward(isa, none, DType::f32);
    Problem with_empty(2, 1, 8, 0, {3, 0, 4});
    check_forward(isa, with_empty, DType::bf16);
    check_backward(isa, with_empty, DType::bf16);
  }
}

TEST(same_bits_every_run) {
  for (const NamedKernels& isa : runnable_kernels()) {
    for (DType t : kTypes) {
      const Problem problems[] = {Problem(6, 2, 32, 0, {301}),
                                  Problem(6, 3, 32, 40, {90, 1, 40, 77, 13, 65})};
      for (const Problem& p : problems) {
        Inputs in(p, t);
        TestMat d_o(t, p.rows, p.heads * p.head_dim);
        d_o.randomize();
        std::vector<char> forward_bits;
        for (int threads : {1, 2, 3}) {
          Threads scope(threads);
          std::vector<char> dq_bits, dk_bits, dv_bits;
          for (int repeat = 0; repeat < 4; ++repeat) {
            TestMat o(t, p.rows, p.heads * p.head_dim), lse(DType::f32, p.rows, p.heads);
            TestMat dq = o, dk(t, p.rows, p.kv_heads * p.head_dim), dv = dk;
            Scratch forward(isa.table->attention_scratch(p.shape()));
            isa.table->attention(o.mat(), lse.mat(), in.q.mat(), in.k.mat(), in.v.mat(),
                                 p.sequences(), p.shape(), forward.data());
            Scratch scratch(isa.table->attention_backward_scratch(p.shape(), 301));
            isa.table->attention_backward(
                dq.mat(), dk.mat(), dv.mat(), d_o.mat(), in.q.mat(), in.k.mat(),
                in.v.mat(), o.mat(), lse.mat(), p.sequences(), p.shape(), scratch.data());
            if (repeat == 0) {
              dq_bits = dq.bytes(), dk_bits = dk.bytes(), dv_bits = dv.bytes();
            }
            // Forward rows do not depend on the thread count either.
            if (forward_bits.empty()) forward_bits = o.bytes();
            CHECK(o.bytes() == forward_bits);
            CHECK(dq.bytes() == dq_bits);
            CHECK(dk.bytes() == dk_bits);
            CHECK(dv.bytes() == dv_bits);
          }
        }
      }
    }
  }
}
