// Conformance of ops between a matrix and a vector, and of picking single elements.
#pragma once

#include "test/conformance/support.h"

namespace s2ft::test {

TEST(scale_cols_overwrites_accumulates_and_works_in_place) {
  for_each_case("scale_cols", odd_shapes(),
                [](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
                  const Host x = random(s.rows, s.cols, t), y = random(s.rows, s.cols, t);
                  const Host f = random(1, s.cols, DType::f32);
                  Device dx(b, t, x, gap), dy(b, t, s.rows, s.cols, gap ? 2 : 0);
                  Device df(b, DType::f32, f);
                  Host want = x;
                  for (int64_t i = 0; i < s.rows; ++i)
                    for (int64_t j = 0; j < s.cols; ++j) want(i, j) *= f(0, j);
                  b.scale_cols(dy, dx, df, false);
                  // Products are rounded to f32 before they are rounded to storage.
                  expect_near(dy.read(what), want, t, 1e-6, what);
                  b.scale_cols(dx, dx, df, false);
                  expect_equal(dx.read(what), dy.read(what), what + " in place");
                  dx.write(x);
                  dy.write(y);
                  b.scale_cols(dy, dx, df, true);
                  for (size_t i = 0; i < want.v.size(); ++i) want.v[i] += y.v[i];
                  expect_near(dy.read(what), want, t, 2e-6, what + " accumulated");
                });
}

TEST(dot_cols_adds_and_dot_rows_overwrites) {
  for_each_case("dot", odd_shapes(),
                [](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
                  const Host x = random(s.rows, s.cols, t), y = random(s.rows, s.cols, t);
                  const Host before = random(1, s.cols, DType::f32);
                  Device dx(b, t, x, gap), dy(b, t, y, gap ? 1 : 0);
                  Device cols(b, DType::f32, before), rows(b, DType::f32, 1, s.rows);
                  b.dot_cols(cols, dx, dy);
                  b.dot_rows(rows, dx, dy);
                  Host by_col = before, by_row(1, s.rows);
                  // What f32 sums may lose: proportional to the sum of magnitudes.
                  Host col_size(1, s.cols, 1);
                  for (int64_t i = 0; i < s.rows; ++i) {
                    for (int64_t j = 0; j < s.cols; ++j) {
                      by_col(0, j) += x(i, j) * y(i, j);
                      by_row(0, i) += x(i, j) * y(i, j);
                      col_size(0, j) += std::fabs(x(i, j) * y(i, j));
                    }
                  }
                  expect_near(
                      cols.read(what), by_col, DType::f32,
                      [&](int64_t, int64_t j) { return 2e-6 * col_size(0, j); },
                      what + " columns");
                  expect_near(rows.read(what), by_row, DType::f32, 1e-9, what + " rows");
                });
}

TEST(inverse_sqrt_of_nothing_is_zero) {
  for (const NamedBackend& b : backends_under_test()) {
    Host x(3, 41);
    for (double& v : x.v) v = double(float(std::exp(rng().normal() * 8)));
    x(1, 7) = 0, x(2, 9) = -1;
    Device dx(*b.backend, DType::f32, x, 3), dy(*b.backend, DType::f32, 3, 41);
    b.backend->inverse_sqrt(dy, dx);
    Host want = x;
    for (double& v : want.v) v = v > 0 ? 1 / std::sqrt(v) : 0;
    // A square root and a division, each rounded.
    expect_near(
        dy.read(b.name), want, DType::f32,
        [&](int64_t i, int64_t j) { return 2e-7 * want(i, j); },
        b.name + " inverse_sqrt");
    b.backend->inverse_sqrt(dx, dx);
    expect_equal(dx.read(b.name), dy.read(b.name), b.name + " in place");
  }
}

TEST(elements_are_gathered_and_scattered) {
  for_each_case("elements", odd_shapes(),
                [](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
                  const Host x = random(s.rows, s.cols, t);
                  std::vector<int32_t> index = random_order(s.rows * s.cols);
                  index.resize((index.size() + 1) / 2);
                  const int64_t n = int64_t(index.size());
                  const Host before = random(1, n, DType::f32);
                  Device dx(b, t, x, gap), dy(b, DType::f32, before);
                  b.gather_elements(dy, dx, index.data());
                  Host want = before;
                  for (int64_t i = 0; i < n; ++i)
                    want(0, i) += x.v[size_t(index[size_t(i)])];
                  expect_near(dy.read(what), want, DType::f32, 0, what + " gather");
                  dy.write(before);
                  b.scatter_elements(dx, dy, index.data());
                  Host into = x;
                  for (int64_t i = 0; i < n; ++i)
                    into.v[size_t(index[size_t(i)])] = round_to(t, before(0, i));
                  expect_equal(dx.read(what), into, what + " scatter");
                });
}

}  // namespace s2ft::test
