// Conformance of moving and element-wise ops.
#pragma once

#include "test/conformance/support.h"

namespace s2ft::test {

TEST(zero_overwrites_only_its_view) {
  for_each_case("zero", odd_shapes(),
                [](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
                  Device y(b, t, s.rows, s.cols, gap);
                  b.zero(y);
                  expect_equal(y.read(what), Host(s.rows, s.cols), what);
                });
}

TEST(copy_converts_and_rounds_to_nearest_even) {
  for_each_case("copy", odd_shapes(),
                [](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
                  for (DType from : storage_types()) {
                    const Host x = random(s.rows, s.cols, from);
                    Device dx(b, from, x, gap ? 3 : 0), dy(b, t, s.rows, s.cols, gap);
                    b.copy(dy, dx);
                    Host want = x;
                    for (double& v : want.v) v = round_to(t, v);
                    expect_equal(dy.read(what), want, what);
                    dx.read(what);
                  }
                });
}

TEST(copy_keeps_special_values) {
  const float inf = HUGE_VALF;
  // Ties to even both ways, just above a tie, overflow to infinity, subnormals, zeros.
  std::vector<float> x = {0.0f,        -0.0f,   1.00390625f, 1.01171875f,
                          1.00390637f, 3.4e38f, -3.4e38f,    1e-40f,
                          -2.3e-39f,   inf,     -inf,        1.17549435e-38f};
  while (x.size() < 97) x.push_back(x[x.size() % 12]);
  for (const NamedBackend& b : backends_under_test()) {
    Host h(1, int64_t(x.size()));
    for (size_t i = 0; i < x.size(); ++i) h.v[i] = x[i];
    Device from(*b.backend, DType::f32, h), to(*b.backend, DType::bf16, 1, h.cols);
    b.backend->copy(to, from);
    Host want = h;
    for (double& v : want.v) v = round_to(DType::bf16, v);
    expect_equal(to.read(b.name), want, b.name + " special values");
    Host nans(1, 33, std::nan(""));
    Device source(*b.backend, DType::f32, nans), target(*b.backend, DType::bf16, 1, 33);
    b.backend->zero(target);
    b.backend->copy(target, source);
    for (double v : target.read(b.name).v) CHECK(std::isnan(v));
  }
}

TEST(add_and_scale) {
  for_each_case("add", odd_shapes(),
                [](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
                  const Host y = random(s.rows, s.cols, t), x = random(s.rows, s.cols, t);
                  Device dy(b, t, y, gap), dx(b, t, x, gap ? 2 : 0);
                  b.add(dy, dx);
                  Host want = y;
                  for (size_t i = 0; i < want.v.size(); ++i) want.v[i] += x.v[i];
                  expect_near(dy.read(what), want, t, 0, what);
                  dy.write(y);
                  b.scale(dy, -0.37f);
                  for (size_t i = 0; i < want.v.size(); ++i) {
                    want.v[i] = y.v[i] * double(-0.37f);
                  }
                  // The product is rounded to f32 before it is rounded to storage.
                  expect_near(dy.read(what), want, t, 1e-7, what + " scale");
                });
}

TEST(gather_rows_repeats) {
  for_each_case("gather_rows", odd_shapes(),
                [](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
                  const Host x = random(s.rows, s.cols, t);
                  const int64_t n = s.rows + 3;
                  std::vector<int32_t> rows(static_cast<size_t>(n));
                  for (int32_t& r : rows) r = int32_t(rng().below(uint64_t(s.rows)));
                  Device dx(b, t, x, gap), dy(b, t, n, s.cols, gap ? 1 : 0);
                  b.gather_rows(dy, dx, rows.data());
                  Host want(n, s.cols);
                  for (int64_t i = 0; i < n; ++i) {
                    for (int64_t j = 0; j < s.cols; ++j) {
                      want(i, j) = x(rows[size_t(i)], j);
                    }
                  }
                  expect_equal(dy.read(what), want, what);
                });
}

TEST(scatter_add_rows_sums_repeats_in_order) {
  for_each_case("scatter_add_rows", odd_shapes(),
                [](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
                  for (DType to : storage_types()) {
                    const int64_t n = s.rows + 4;
                    const Host x = random(n, s.cols, t), y = random(s.rows, s.cols, to);
                    std::vector<int32_t> rows(static_cast<size_t>(n));
                    for (int32_t& r : rows) r = int32_t(rng().below(uint64_t(s.rows)));
                    Device dx(b, t, x, gap), dy(b, to, y, gap);
                    b.scatter_add_rows(dy, dx, rows.data());
                    // Rounded after every addition, in order: exactly this.
                    Host want = y;
                    for (int64_t i = 0; i < n; ++i) {
                      for (int64_t j = 0; j < s.cols; ++j) {
                        double& sum = want(rows[size_t(i)], j);
                        sum = round_to(to, double(float(sum) + float(x(i, j))));
                      }
                    }
                    expect_equal(dy.read(what), want, what);
                  }
                });
}

TEST(scatter_rows_and_cols_overwrite) {
  for_each_case("scatter", odd_shapes(),
                [](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
                  const Host y = random(s.rows, s.cols, t);
                  auto rows = random_order(s.rows), cols = random_order(s.cols);
                  rows.resize((rows.size() + 1) / 2), cols.resize((cols.size() + 1) / 2);
                  const Host by_row = random(int64_t(rows.size()), s.cols, t),
                             by_col = random(s.rows, int64_t(cols.size()), t);
                  Device to_rows(b, t, y, gap), to_cols(b, t, y, gap);
                  Device x_rows(b, t, by_row, gap), x_cols(b, t, by_col, gap);
                  b.scatter_rows(to_rows, x_rows, rows.data());
                  b.scatter_cols(to_cols, x_cols, cols.data());
                  Host want_rows = y, want_cols = y;
                  for (size_t i = 0; i < rows.size(); ++i)
                    for (int64_t j = 0; j < s.cols; ++j)
                      want_rows(rows[i], j) = by_row(int64_t(i), j);
                  for (int64_t i = 0; i < s.rows; ++i)
                    for (size_t j = 0; j < cols.size(); ++j)
                      want_cols(i, cols[j]) = by_col(i, int64_t(j));
                  expect_equal(to_rows.read(what), want_rows, what + " rows");
                  expect_equal(to_cols.read(what), want_cols, what + " cols");
                });
}

TEST(add_cols_tells_what_was_there) {
  for_each_case("add_cols", odd_shapes(),
                [](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
                  for (DType to : storage_types()) {
                    auto cols = random_order(s.cols);
                    cols.resize((cols.size() + 1) / 2);
                    const int64_t n = int64_t(cols.size());
                    const Host y = random(s.rows, s.cols, to), x = random(s.rows, n, t);
                    Device dy(b, to, y, gap), again(b, to, y, gap), dx(b, t, x, gap);
                    Device before(b, to, s.rows, n, gap);
                    b.add_cols(dy, before, dx, cols.data());
                    b.add_cols(again, {}, dx, cols.data());
                    Host want = y, was(s.rows, n);
                    for (int64_t i = 0; i < s.rows; ++i) {
                      for (int64_t j = 0; j < n; ++j) {
                        double& sum = want(i, cols[size_t(j)]);
                        was(i, j) = sum;
                        sum = round_to(to, double(float(sum) + float(x(i, j))));
                      }
                    }
                    expect_equal(dy.read(what), want, what);
                    expect_equal(again.read(what), want, what + ", nothing kept");
                    expect_equal(before.read(what), was, what + ", before");
                  }
                });
}

TEST(replace_cols_is_one_after_the_other) {
  for_each_case(
      "replace_cols", odd_shapes(),
      [](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
        for (DType to : storage_types()) {
          // Drawn independently, so that the sets differ in size and share columns.
          auto old_cols = random_order(s.cols), cols = random_order(s.cols);
          old_cols.resize((old_cols.size() + 2) / 3), cols.resize((cols.size() + 1) / 2);
          const int64_t m = int64_t(old_cols.size()), n = int64_t(cols.size());
          const Host y = random(s.rows, s.cols, to), old = random(s.rows, m, to),
                     x = random(s.rows, n, t);
          Device at_once(b, to, y, gap), in_turn(b, to, y, gap);
          Device before(b, to, s.rows, n, gap), was(b, to, s.rows, n, gap);
          Device d_old(b, to, old, gap), dx(b, t, x, gap);
          b.replace_cols(at_once, d_old, old_cols.data(), before, dx, cols.data());
          b.scatter_cols(in_turn, d_old, old_cols.data());
          b.add_cols(in_turn, was, dx, cols.data());
          expect_equal(at_once.read(what), in_turn.read(what), what);
          expect_equal(before.read(what), was.read(what), what + ", before");
        }
      });
}

TEST(permute_rows_and_cols) {
  for_each_case("permute", odd_shapes(),
                [](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
                  const Host x = random(s.rows, s.cols, t);
                  const auto rows = random_order(s.rows), cols = random_order(s.cols);
                  Device by_row(b, t, x, gap), by_col(b, t, x, gap);
                  b.permute_rows(by_row, rows.data());
                  b.permute_cols(by_col, cols.data());
                  Host want_rows(s.rows, s.cols), want_cols(s.rows, s.cols);
                  for (int64_t i = 0; i < s.rows; ++i) {
                    for (int64_t j = 0; j < s.cols; ++j) {
                      want_rows(i, j) = x(rows[size_t(i)], j);
                      want_cols(i, j) = x(i, cols[size_t(j)]);
                    }
                  }
                  expect_equal(by_row.read(what), want_rows, what + " rows");
                  expect_equal(by_col.read(what), want_cols, what + " cols");
                });
}

TEST(add_bias_and_sum_rows) {
  for_each_case("bias", odd_shapes(),
                [](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
                  const Host y = random(s.rows, s.cols, t), bias = random(1, s.cols, t),
                             old = random(1, s.cols, DType::f32);
                  Device dy(b, t, y, gap), db(b, t, bias), sum(b, DType::f32, old);
                  b.add_bias(dy, db);
                  Host want = y, total = old, magnitude = old;
                  for (int64_t j = 0; j < s.cols; ++j)
                    magnitude(0, j) = std::fabs(old(0, j));
                  for (int64_t i = 0; i < s.rows; ++i) {
                    for (int64_t j = 0; j < s.cols; ++j) want(i, j) += bias(0, j);
                  }
                  const Host got = dy.read(what);
                  expect_near(got, want, t, 0, what);
                  b.sum_rows(sum, dy);
                  for (int64_t i = 0; i < s.rows; ++i) {
                    for (int64_t j = 0; j < s.cols; ++j) {
                      total(0, j) += got(i, j);
                      magnitude(0, j) += std::fabs(got(i, j));
                    }
                  }
                  // Rounding errors of a sum in blocks grow like the root of its length,
                  // at most.
                  const double unit = 0x1p-24 * (2 + std::sqrt(double(s.rows)));
                  expect_near(
                      sum.read(what), total, DType::f32,
                      [&](int64_t, int64_t j) { return unit * magnitude(0, j); },
                      what + " sum_rows");
                });
}

TEST(dropout_is_a_function_of_seed_and_index) {
  for_each_case("dropout", odd_shapes(),
                [](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
                  const Host x = random(s.rows, s.cols, t);
                  const uint64_t seed = rng().next();
                  const float p = 0.3f;
                  Device dx(b, t, x, gap), dy(b, t, s.rows, s.cols, gap ? 1 : 0);
                  b.dropout(dy, dx, p, seed);
                  const CounterHash hash(seed);
                  Host want(s.rows, s.cols);
                  for (size_t i = 0; i < want.v.size(); ++i) {
                    const bool keep = hash(i) >= uint32_t(double(p) * 4294967296.0);
                    want.v[i] = keep ? x.v[i] / (1 - double(p)) : 0;
                  }
                  const Host got = dy.read(what);
                  expect_near(got, want, t, 4e-7, what);
                  b.dropout(dx, dx, p, seed);
                  expect_equal(dx.read(what), got, what + " in place");
                });
}

TEST(dropout_keeps_the_right_share_and_depends_on_the_seed) {
  for (const NamedBackend& b : backends_under_test()) {
    const int64_t n = 100000;
    Device x(*b.backend, DType::f32, Host(1, n, 1.0)), y(*b.backend, DType::f32, 1, n),
        z(*b.backend, DType::f32, 1, n);
    b.backend->dropout(y, x, 0.1f, 7);
    b.backend->dropout(z, x, 0.1f, 8);
    const Host first = y.read(b.name), second = z.read(b.name);
    double kept = 0, both = 0;
    for (int64_t i = 0; i < n; ++i) {
      kept += first(0, i) != 0;
      both += first(0, i) != 0 && second(0, i) != 0;
    }
    // Five standard deviations of a fair coin of this bias; the seeds are fixed.
    CHECK_NEAR(kept / n, 0.9, 5 * std::sqrt(0.09 / n));
    CHECK_NEAR(both / n, 0.81, 5 * std::sqrt(0.81 * 0.19 / n));
  }
}

TEST(sum_of_squares_in_double) {
  for_each_case("sum_of_squares", odd_shapes(),
                [](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
                  const Host x = random(s.rows, s.cols, t, 1e3);
                  Device dx(b, t, x, gap);
                  double want = 0;
                  for (double v : x.v) want += v * v;
                  const double got = sum_of_squares(b, {dx});
                  if (!(std::fabs(got - want) <= 1e-12 * want)) {
                    fail(__FILE__, __LINE__, what + ": " + std::to_string(got));
                  }
                  CHECK(sum_of_squares(b, {dx}) == got);
                  CHECK_NEAR(sum_of_squares(b, {dx, dx, dx}), 3 * want, 3e-12 * want);
                });
}

TEST(empty_views_are_left_alone) {
  for (const NamedBackend& named : backends_under_test()) {
    Backend& b = *named.backend;
    for (DType t : storage_types()) {
      Device none(b, t, 0, 8), one(b, t, Host(1, 8, 1.0)), row(b, DType::f32, Host(1, 8));
      b.zero(none);
      b.copy(none, none);
      b.add(none, none);
      b.scale(none, 2);
      b.gather_rows(none, one, nullptr);
      b.scatter_add_rows(one, none, nullptr);
      b.scatter_rows(one, none, nullptr);
      b.scatter_cols(none, none, nullptr);
      b.add_cols(none, {}, none, nullptr);
      b.replace_cols(none, none, nullptr, {}, none, nullptr);
      b.permute_rows(none, nullptr);
      b.add_bias(none, one);
      b.sum_rows(row, none);
      b.rms_norm(none, none, one, 1e-5f);
      b.swiglu(none, none, none);
      b.dropout(none, none, 0.5f, 1);
      CHECK(sum_of_squares(b, {none}) == 0 && sum_of_squares(b, {}) == 0);
      none.read(named.name);
      expect_equal(one.read(named.name), Host(1, 8, 1.0), named.name);
      expect_equal(row.read(named.name), Host(1, 8), named.name);
    }
  }
}

}  // namespace s2ft::test
