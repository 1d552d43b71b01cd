// Conformance of matrix products: every layout, type and accumulation.
#pragma once

#include "test/conformance/support.h"

namespace s2ft::test {

struct Product {
  int64_t m, n, k;
};

/// A product with everything that varies, checked at `samples` elements (0: all).
inline void check_product(const NamedBackend& named, const Product& p, DType in,
                          DType out, bool ta, bool tb, float beta, int64_t gap,
                          int samples = 0) {
  Backend& b = *named.backend;
  const std::string what = named.name + " matmul " + dtype_name(in) + "->" +
                           dtype_name(out) + " " + std::to_string(p.m) + "x" +
                           std::to_string(p.n) + "x" + std::to_string(p.k) +
                           (ta ? " A^T" : "") + (tb ? " B^T" : "") +
                           (beta != 0 ? " +=" : "") + (gap ? " strided" : "");
  const Host a = ta ? random(p.k, p.m, in) : random(p.m, p.k, in);
  const Host w = tb ? random(p.n, p.k, in) : random(p.k, p.n, in);
  const Host old = random(p.m, p.n, out);
  Device da(b, in, a, gap), dw(b, in, w, gap ? 3 : 0), dc(b, out, p.m, p.n, gap ? 7 : 0);
  // Without beta the output stays NaN: reading it would show.
  if (beta != 0) dc.write(old);
  b.matmul(dc, da, ta, dw, tb, beta);
  const Host got = dc.read(what);
  const auto element = [&](int64_t i, int64_t j, double& want, double& magnitude) {
    want = beta != 0 ? old(i, j) : 0;
    magnitude = std::fabs(want);
    for (int64_t k = 0; k < p.k; ++k) {
      const double term = (ta ? a(k, i) : a(i, k)) * (tb ? w(j, k) : w(k, j));
      want += term;
      magnitude += std::fabs(term);
    }
  };
  // Rounding errors of an f32 sum walk randomly: about the root of its length.
  const double unit = 0x1p-24 * (4 + 2 * std::sqrt(double(p.k)));
  if (samples == 0) {
    Host want(p.m, p.n), magnitude(p.m, p.n);
    for (int64_t i = 0; i < p.m; ++i) {
      for (int64_t j = 0; j < p.n; ++j) element(i, j, want(i, j), magnitude(i, j));
    }
    expect_near(
        got, want, out, [&](int64_t i, int64_t j) { return unit * magnitude(i, j); },
        what);
    return;
  }
  Host want(1, samples), seen(1, samples), magnitude(1, samples);
  for (int64_t s = 0; s < samples; ++s) {
    // The corners first: the last block of every direction.
    const int64_t i = s < 4 ? (s & 1) * (p.m - 1) : int64_t(rng().below(uint64_t(p.m)));
    const int64_t j = s < 4 ? (s >> 1) * (p.n - 1) : int64_t(rng().below(uint64_t(p.n)));
    element(i, j, want(0, s), magnitude(0, s));
    seen(0, s) = got(i, j);
  }
  expect_near(
      seen, want, out, [&](int64_t, int64_t s) { return unit * magnitude(0, s); }, what);
}

struct ProductTypes {
  DType in, out;
};
inline const std::vector<ProductTypes>& product_types() {
  static const std::vector<ProductTypes> types = {
      {DType::f32, DType::f32}, {DType::bf16, DType::bf16}, {DType::bf16, DType::f32}};
  return types;
}

TEST(matmul_of_small_and_odd_shapes) {
  const std::vector<Product> products = {
      {1, 1, 1},   {1, 1, 7}, {1, 5, 1},    {3, 1, 1},    {1, 64, 64},
      {64, 1, 33}, {2, 3, 5}, {17, 31, 13}, {64, 64, 64}, {65, 67, 71}};
  for (const NamedBackend& b : backends_under_test()) {
    for (const Product& p : products) {
      for (const ProductTypes& t : product_types()) {
        for (int bits = 0; bits < 16; ++bits) {
          check_product(b, p, t.in, t.out, bits & 1, bits & 2, bits & 4 ? 1.0f : 0.0f,
                        bits & 8 ? 5 : 0);
        }
      }
    }
  }
}

// The products of training: forward, dX, and the thin slice gradients of both axes.
TEST(matmul_of_layer_shapes) {
  for (const NamedBackend& b : backends_under_test()) {
    for (const ProductTypes& t : product_types()) {
      check_product(b, {193, 320, 192}, t.in, t.out, false, true, 0, 0, 300);
      check_product(b, {193, 192, 320}, t.in, t.out, false, false, 1, 0, 300);
      check_product(b, {16, 192, 193}, t.in, t.out, true, false, 1, 64, 300);
      check_product(b, {192, 17, 193}, t.in, t.out, true, false, 1, 96, 300);
      check_product(b, {7, 1031, 192}, t.in, t.out, false, true, 0, 0, 300);
    }
  }
}

// Longer than every block of every implementation, in each direction.
TEST(matmul_crosses_blocks) {
  for (const NamedBackend& b : backends_under_test()) {
    for (const ProductTypes& t : product_types()) {
      check_product(b, {1027, 35, 67}, t.in, t.out, false, true, 1, 5, 300);
      check_product(b, {33, 1090, 70}, t.in, t.out, true, false, 0, 5, 300);
      check_product(b, {37, 65, 4133}, t.in, t.out, false, false, 1, 5, 300);
      check_product(b, {1030, 1033, 259}, t.in, t.out, true, true, 0, 0, 300);
    }
  }
}

TEST(matmul_of_empty_shapes) {
  for (const NamedBackend& named : backends_under_test()) {
    Backend& b = *named.backend;
    for (const ProductTypes& t : product_types()) {
      Device none(b, t.in, 0, 4), w(b, t.in, Host(3, 4, 1.0)), empty(b, t.out, 0, 3);
      b.matmul(empty, none, false, w, true, 0);
      empty.read(named.name);
      // No terms: zero, or what was there.
      Device tall(b, t.in, 5, 0), wide(b, t.in, 3, 0), c(b, t.out, 5, 3);
      b.matmul(c, tall, false, wide, true, 0);
      expect_equal(c.read(named.name), Host(5, 3), named.name + " empty sum");
      c.write(Host(5, 3, 2.0));
      b.matmul(c, tall, false, wide, true, 1);
      expect_equal(c.read(named.name), Host(5, 3, 2.0), named.name + " empty sum +=");
    }
  }
}

TEST(matmul_is_bitwise_repeatable) {
  for (const NamedBackend& named : backends_under_test()) {
    for (const ProductTypes& t : product_types()) {
      const Host a = random(131, 517, t.in), w = random(77, 517, t.in);
      Host first;
      for (int run = 0; run < 3; ++run) {
        Device da(*named.backend, t.in, a), dw(*named.backend, t.in, w),
            dc(*named.backend, t.out, 131, 77);
        named.backend->matmul(dc, da, false, dw, true, 0);
        const Host got = dc.read(named.name);
        if (run == 0) first = got;
        expect_equal(got, first, named.name + " matmul again");
      }
    }
  }
}

TEST(matmul_keeps_infinities_and_nans) {
  for (const NamedBackend& named : backends_under_test()) {
    for (const ProductTypes& t : product_types()) {
      Host a(9, 40, 1.0), w(6, 40, 1.0);
      a(2, 17) = std::nan("");
      a(5, 39) = HUGE_VAL;
      Device da(*named.backend, t.in, a), dw(*named.backend, t.in, w),
          dc(*named.backend, t.out, 9, 6);
      named.backend->matmul(dc, da, false, dw, true, 0);
      const Host got = dc.read(named.name);
      for (int64_t j = 0; j < 6; ++j) {
        CHECK(std::isnan(got(2, j)));
        CHECK(got(5, j) == HUGE_VAL);
        CHECK(got(4, j) == 40);
      }
    }
  }
}

}  // namespace s2ft::test
