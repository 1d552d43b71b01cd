// The matrix product of every instruction set against sums in double.
#include "check.h"
#include "kernel_fixture.h"

using namespace s2ft;
using namespace s2ft::test;

namespace {

struct Shape {
  int m, n, k;
};

struct Case {
  Shape shape;
  DType in, out;
  bool transpose_a, transpose_b;
  int beta;
};

std::string text(const std::string& isa, const Case& c) {
  return isa + " " + std::to_string(c.shape.m) + "x" + std::to_string(c.shape.n) + "x" +
         std::to_string(c.shape.k) + " " + dtype_name(c.in) + ">" + dtype_name(c.out) +
         (c.transpose_a ? " T" : " N") + (c.transpose_b ? "T" : "N") + " beta " +
         std::to_string(c.beta);
}

void multiply(const NamedKernels& isa, TestMat& y, TestMat& a, bool transpose_a,
              TestMat& b, bool transpose_b, int beta) {
  SharedScratch scratch(
      isa.table->gemm_scratch(y.mat(), a.mat(), transpose_a, b.mat(), transpose_b));
  isa.table->gemm(y.mat(), a.mat(), transpose_a, b.mat(), transpose_b, float(beta),
                  scratch.data());
}

/// Runs one product with gaps between rows and compares every element.
void check_product(const NamedKernels& isa, const Case& c) {
  const auto [m, n, k] = c.shape;
  TestMat a(c.in, c.transpose_a ? k : m, c.transpose_a ? m : k, random_int(0, 5));
  TestMat b(c.in, c.transpose_b ? n : k, c.transpose_b ? k : n, random_int(0, 5));
  TestMat y(c.out, m, n, random_int(0, 5));
  a.randomize();
  b.randomize();
  // With beta 0 the NaN that y holds must not come through.
  if (c.beta) y.randomize();
  const TestMat before = y;
  multiply(isa, y, a, c.transpose_a, b, c.transpose_b, c.beta);
  double worst = 0;
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      double sum = c.beta ? before(i, j) : 0, size = std::fabs(sum);
      for (int l = 0; l < k; ++l) {
        const double term = double(c.transpose_a ? a(l, i) : a(i, l)) *
                            (c.transpose_b ? b(j, l) : b(l, j));
        sum += term;
        size += std::fabs(term);
      }
      // Summing k terms in f32 one after another errs by at most k * 2^-24 of the sum of
      // sizes; the block sums and beta's term add a few more steps. A bf16 result is
      // rounded once more, by at most 2^-8 of itself.
      double allowed = (k + 8) * std::ldexp(1.0, -24) * size;
      if (c.out == DType::bf16) allowed += std::ldexp(1.0, -8) * std::fabs(sum);
      const double error = std::fabs(y(i, j) - sum);
      if (!(error <= allowed))
        worst = std::isnan(error) ? error : std::fmax(worst, error);
      if (std::isnan(worst)) break;
    }
  }
  if (worst != 0) {
    fail(__FILE__, __LINE__, text(isa.name, c) + ": error " + std::to_string(worst));
  }
  CHECK(y.gaps_intact());
}

void check_all_forms(const NamedKernels& isa, Shape shape) {
  for (int form = 0; form < 4; ++form) {
    for (int beta = 0; beta < 2; ++beta) {
      const bool ta = form & 1, tb = form & 2;
      check_product(isa, {shape, DType::f32, DType::f32, ta, tb, beta});
      check_product(isa, {shape, DType::bf16, DType::bf16, ta, tb, beta});
      check_product(isa, {shape, DType::bf16, DType::f32, ta, tb, beta});
    }
  }
}

}  // namespace

TEST(small_and_odd_shapes) {
  const Shape shapes[] = {{1, 1, 1},   {1, 1, 2},    {2, 3, 5},   {7, 17, 13},
                          {6, 64, 32}, {13, 65, 31}, {1, 97, 7},  {61, 1, 3},
                          {5, 16, 1},  {31, 33, 37}, {12, 47, 64}};
  for (const NamedKernels& isa : runnable_kernels()) {
    for (Shape shape : shapes) check_all_forms(isa, shape);
    for (int i = 0; i < 20; ++i) {
      check_all_forms(isa, {random_int(1, 40), random_int(1, 90), random_int(1, 50)});
    }
  }
}

TEST(several_blocks) {
  // More than one block of rows (1024) and of depth (1536 units, 3072 bf16), several
  // panels and parts of the rows; thin ones last.
  for (const NamedKernels& isa : runnable_kernels()) {
    check_all_forms(isa, {197, 263, 521});
    check_all_forms(isa, {19, 70, 3201});
    check_all_forms(isa, {1043, 50, 35});
    check_all_forms(isa, {401, 17, 30});
    check_all_forms(isa, {3, 300, 3203});
  }
}

TEST(nothing_to_sum) {
  for (const NamedKernels& isa : runnable_kernels()) {
    check_all_forms(isa, {5, 7, 0});
    check_all_forms(isa, {0, 7, 3});
    check_all_forms(isa, {5, 0, 3});
    check_all_forms(isa, {0, 0, 0});
  }
}

TEST(infinities_and_nans_come_through) {
  for (const NamedKernels& isa : runnable_kernels()) {
    for (DType t : {DType::f32, DType::bf16}) {
      TestMat a(t, 3, 2), b(t, 2, 3), y(DType::f32, 3, 3);
      for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 2; ++j) a.set(i, j, 1), b.set(j, i, 1);
      }
      a.set(1, 0, INFINITY);
      b.set(1, 2, NAN);
      multiply(isa, y, a, false, b, false, 0);
      CHECK(y(0, 0) == 2 && y(2, 1) == 2);
      CHECK(y(1, 0) == INFINITY && y(1, 1) == INFINITY);
      CHECK(std::isnan(y(0, 2)) && std::isnan(y(1, 2)) && std::isnan(y(2, 2)));
    }
  }
}

TEST(same_bits_every_run_and_thread_count) {
  for (const NamedKernels& isa : runnable_kernels()) {
    for (DType t : {DType::f32, DType::bf16}) {
      TestMat a(t, 211, 301), b(t, 333, 301);
      a.randomize();
      b.randomize();
      std::vector<char> first;
      for (int threads : {1, 2, 2, 3, 5}) {
        Threads scope(threads);
        TestMat y(t, 211, 333);
        multiply(isa, y, a, false, b, true, 0);
        if (first.empty()) first = y.bytes();
        CHECK(y.bytes() == first);
      }
    }
  }
}

// What decoding promises: a sequence's numbers do not depend on how many run beside it.
// Depths of one and of several blocks, weights of whole and of partial groups of rows.
TEST(a_row_has_the_same_bits_however_many_there_are) {
  const int most = 23;
  for (const NamedKernels& isa : runnable_kernels()) {
    for (const auto& [in, out] :
         {std::pair{DType::f32, DType::f32}, std::pair{DType::bf16, DType::bf16},
          std::pair{DType::bf16, DType::f32}}) {
      for (const auto& [n, k] : {std::pair{128, 64}, std::pair{77, 301},
                                 std::pair{64, 3200}, std::pair{9, 4001}}) {
        TestMat a(in, most, k, random_int(0, 3)), b(in, n, k, random_int(0, 3));
        a.randomize();
        b.randomize();
        TestMat old(out, most, n);
        old.randomize();
        for (int beta : {0, 1}) {
          TestMat all = old;
          multiply(isa, all, a, false, b, true, beta);
          for (int rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 13}) {
            TestMat few(in, rows, k, random_int(0, 3)), y(out, rows, n);
            for (int i = 0; i < rows; ++i) {
              for (int j = 0; j < k; ++j) few.set(i, j, a(i + 7, j));
              for (int j = 0; j < n; ++j) y.set(i, j, old(i + 7, j));
            }
            multiply(isa, y, few, false, b, true, beta);
            int different = 0;
            for (int i = 0; i < rows; ++i)
              for (int j = 0; j < n; ++j) different += y(i, j) != all(i + 7, j);
            if (different) {
              fail(__FILE__, __LINE__,
                   isa.name + " " + dtype_name(in) + ">" + dtype_name(out) + " " +
                       std::to_string(rows) + "x" + std::to_string(n) + "x" +
                       std::to_string(k) + ": " + std::to_string(different) +
                       " elements differ");
            }
          }
        }
      }
    }
  }
}
