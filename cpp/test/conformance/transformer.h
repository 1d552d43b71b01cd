// Conformance of norms, rotary embedding and the gated activation, with their gradients.
#pragma once

#include "test/conformance/support.h"

namespace s2ft::test {

inline Host rms_norm_reference(const Host& x, const Host& w, double eps) {
  Host y(x.rows, x.cols);
  for (int64_t i = 0; i < x.rows; ++i) {
    for (int64_t g = 0; g < x.cols; g += w.cols) {
      double sum = 0;
      for (int64_t j = 0; j < w.cols; ++j) sum += x(i, g + j) * x(i, g + j);
      const double r = 1 / std::sqrt(sum / double(w.cols) + eps);
      for (int64_t j = 0; j < w.cols; ++j) y(i, g + j) = x(i, g + j) * r * w(0, j);
    }
  }
  return y;
}

inline double dot(const Host& a, const Host& b) {
  double sum = 0;
  for (size_t i = 0; i < a.v.size(); ++i) sum += a.v[i] * b.v[i];
  return sum;
}

// Errors of the f32 arithmetic, relative to numbers of order one: a sum of n terms by
// vector lanes, one division, one root, a few products.
constexpr double kArithmetic = 4e-6;

TEST(rms_norm_of_rows_and_heads) {
  const float eps = 1e-5f;
  for (int64_t groups : {1, 3}) {
    for_each_case(
        "rms_norm", odd_shapes(),
        [&](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
          const Host x = random(s.rows, s.cols * groups, t), w = random(1, s.cols, t);
          Device dx(b, t, x, gap), dw(b, t, w), dy(b, t, s.rows, x.cols, gap);
          b.rms_norm(dy, dx, dw, eps);
          const Host want = rms_norm_reference(x, w, eps), got = dy.read(what);
          expect_near(
              got, want, t,
              [&](int64_t i, int64_t j) { return kArithmetic * std::fabs(want(i, j)); },
              what);
          b.rms_norm(dx, dx, dw, eps);
          expect_equal(dx.read(what), got, what + " in place");
        });
  }
}

TEST(rms_norm_of_zeros_is_zero) {
  for (const NamedBackend& b : backends_under_test()) {
    Device x(*b.backend, DType::f32, Host(2, 64)),
        w(*b.backend, DType::f32, Host(1, 64, 1));
    b.backend->rms_norm(x, x, w, 1e-5f);
    expect_equal(x.read(b.name), Host(2, 64), b.name + " rms_norm of zeros");
  }
}

TEST(rms_norm_backward_matches_differences) {
  const float eps = 1e-5f;
  for (int64_t groups : {1, 2}) {
    for_each_case(
        "rms_norm_backward", {{1, 1}, {1, 7}, {3, 64}, {7, 17}},
        [&](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
          const Host x = random(s.rows, s.cols * groups, t), w = random(1, s.cols, t),
                     dy = random(s.rows, x.cols, t), old = random(s.rows, x.cols, t),
                     old_w = random(1, s.cols, DType::f32);
          const Host by_x = numerical_gradient(
              [&](const Host& h) { return dot(rms_norm_reference(h, w, eps), dy); }, x);
          const Host by_w = numerical_gradient(
              [&](const Host& h) { return dot(rms_norm_reference(x, h, eps), dy); }, w);
          double size = 1;
          for (double v : by_x.v) size = std::max(size, std::fabs(v));
          Device ddy(b, t, dy, gap), dx(b, t, x, gap), dw(b, t, w),
              out(b, t, s.rows, x.cols, gap), sum(b, t, old, gap),
              weight(b, DType::f32, old_w);
          b.rms_norm_backward(out, false, weight, ddy, dx, dw, eps);
          // Terms of the size of the largest cancel; the differences add about 1e-9.
          const double error = 20 * kArithmetic * size;
          const Host got = out.read(what);
          expect_near(got, by_x, t, error, what);
          Host want = old_w;
          for (int64_t j = 0; j < s.cols; ++j) want(0, j) += by_w(0, j);
          expect_near(weight.read(what), want, DType::f32, 1e-4, what + " weight");
          b.rms_norm_backward(sum, true, Mat{}, ddy, dx, dw, eps);
          Host total = old;
          for (size_t i = 0; i < total.v.size(); ++i) total.v[i] += by_x.v[i];
          expect_near(sum.read(what), total, t, error, what + " accumulated");
          b.rms_norm_backward(ddy, false, Mat{}, ddy, dx, dw, eps);
          expect_equal(ddy.read(what), got, what + " in place");
        });
  }
}

TEST(rms_norm_backward_is_bitwise_repeatable) {
  for (const NamedBackend& b : backends_under_test()) {
    const Host x = random(301, 96, DType::f32), w = random(1, 96, DType::f32),
               dy = random(301, 96, DType::f32);
    Device dx(*b.backend, DType::f32, x), dw(*b.backend, DType::f32, w),
        ddy(*b.backend, DType::f32, dy), out(*b.backend, DType::f32, 301, 96);
    Host first;
    double size = 0;
    for (int run = 0; run < 3; ++run) {
      Device sum(*b.backend, DType::f32, Host(1, 96));
      b.backend->rms_norm_backward(out, false, sum, ddy, dx, dw, 1e-6f);
      const Host got = sum.read(b.name);
      if (run == 0) first = got;
      expect_equal(got, first, b.name + " dw");
      size += got.v[0];
    }
    CHECK(size != 0);
    // The threads' parts against one sum in double.
    Host want(1, 96);
    const Host ones(1, 96, 1.0), normal = rms_norm_reference(x, ones, 1e-6f);
    for (int64_t i = 0; i < 301; ++i) {
      for (int64_t j = 0; j < 96; ++j) want(0, j) += dy(i, j) * normal(i, j);
    }
    expect_near(first, want, DType::f32, 2e-4, b.name + " dw of many rows");
  }
}

inline Host rope_reference(const Host& x, const std::vector<int32_t>& at, const Host& cos,
                           const Host& sin, bool inverse) {
  const int64_t half = cos.cols;
  Host y = x;
  for (int64_t i = 0; i < x.rows; ++i) {
    for (int64_t h = 0; h < x.cols; h += 2 * half) {
      for (int64_t j = 0; j < half; ++j) {
        const double c = cos(at[size_t(i)], j), s = sin(at[size_t(i)], j),
                     a = x(i, h + j), z = x(i, h + half + j), d = inverse ? -s : s;
        y(i, h + j) = a * c - z * d;
        y(i, h + half + j) = z * c + a * d;
      }
    }
  }
  return y;
}

TEST(rope_rotates_and_its_inverse_is_its_gradient) {
  constexpr int64_t kPositions = 41;
  for (int64_t half : {1, 5, 32}) {
    Host cos(kPositions, half), sin(kPositions, half);
    for (int64_t p = 0; p < kPositions; ++p) {
      for (int64_t j = 0; j < half; ++j) {
        const double angle = double(p) * std::pow(100.0, -double(j) / double(half));
        cos(p, j) = double(float(std::cos(angle)));
        sin(p, j) = double(float(std::sin(angle)));
      }
    }
    for_each_case(
        "rope", {{1, 1}, {5, 3}, {307, 2}},
        [&](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
          const Host x = random(s.rows, s.cols * 2 * half, t),
                     dy = random(s.rows, s.cols * 2 * half, t);
          std::vector<int32_t> at(static_cast<size_t>(s.rows));
          for (int32_t& p : at) p = int32_t(rng().below(kPositions));
          Device dx(b, t, x, gap), dc(b, DType::f32, cos, gap),
              ds(b, DType::f32, sin, gap), gradient(b, t, dy, gap);
          b.rope(dx, at.data(), dc, ds, int(2 * half), false);
          expect_near(dx.read(what), rope_reference(x, at, cos, sin, false), t, 2e-6,
                      what);
          b.rope(gradient, at.data(), dc, ds, int(2 * half), true);
          const Host got = gradient.read(what);
          expect_near(got, rope_reference(dy, at, cos, sin, true), t, 2e-6,
                      what + " inverse");
          if (s.rows > 5) return;
          const Host want = numerical_gradient(
              [&](const Host& h) {
                return dot(rope_reference(h, at, cos, sin, false), dy);
              },
              x);
          expect_near(got, want, t, 2e-6, what + " gradient");
        });
  }
}

inline double silu(double x) {
  return x / (1 + std::exp(-x));
}

TEST(swiglu_forward_and_its_tails) {
  for_each_case("swiglu", odd_shapes(),
                [](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
                  Host g = random(s.rows, s.cols, t, 4);
                  const Host u = random(s.rows, s.cols, t);
                  const double far[] = {0, -20, 20, -87.5, 88.5, -200, 200, -1e30, 1e30};
                  for (size_t i = 0; i < g.v.size() && i < 9; ++i) {
                    g.v[i] = round_to(t, far[i]);
                  }
                  Device dg(b, t, g, gap), du(b, t, u, gap),
                      dh(b, t, s.rows, s.cols, gap);
                  b.swiglu(dh, dg, du);
                  Host want(s.rows, s.cols);
                  for (size_t i = 0; i < want.v.size(); ++i) {
                    want.v[i] = silu(g.v[i]) * u.v[i];
                  }
                  // Relative, plus what a saturated exponential leaves of a huge gate.
                  expect_near(
                      dh.read(what), want, t,
                      [&](int64_t i, int64_t j) {
                        return 1e-6 * std::fabs(want(i, j)) +
                               1e-37 * std::max(1.0, std::fabs(g(i, j)));
                      },
                      what);
                });
}

TEST(swiglu_backward_matches_differences) {
  for_each_case(
      "swiglu_backward", {{1, 1}, {3, 7}, {5, 33}},
      [](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
        const Host g = random(s.rows, s.cols, t, 3), u = random(s.rows, s.cols, t),
                   d = random(s.rows, s.cols, t);
        const auto loss = [&](const Host& gate, const Host& up) {
          double sum = 0;
          for (size_t i = 0; i < d.v.size(); ++i)
            sum += d.v[i] * silu(gate.v[i]) * up.v[i];
          return sum;
        };
        Device dg(b, t, g, gap), du(b, t, u, gap), dd(b, t, d, gap);
        b.swiglu_backward(dg, du, dd);
        expect_near(dg.read(what),
                    numerical_gradient([&](const Host& h) { return loss(h, u); }, g), t,
                    5e-6, what + " gate");
        expect_near(du.read(what),
                    numerical_gradient([&](const Host& h) { return loss(g, h); }, u), t,
                    5e-6, what + " up");
      });
}

TEST(swiglu_backward_of_large_views_and_fused_columns) {
  for (const NamedBackend& b : backends_under_test()) {
    for (DType t : storage_types()) {
      const int64_t rows = 203, k = 131;
      const Host both = random(rows, 2 * k, t, 2), d = random(rows, k, t);
      Device fused(*b.backend, t, both, 3), dd(*b.backend, t, d);
      const Mat m = fused;
      b.backend->swiglu_backward(m.col_range(0, k), m.col_range(k, k), dd);
      Host want(rows, 2 * k);
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < k; ++j) {
          const double g = both(i, j), sigmoid = 1 / (1 + std::exp(-g));
          want(i, j) = d(i, j) * both(i, k + j) * sigmoid * (1 + g * (1 - sigmoid));
          want(i, k + j) = d(i, j) * g * sigmoid;
        }
      }
      expect_near(fused.read(b.name), want, t, 1e-5, b.name + " swiglu_backward fused");
    }
  }
}

}  // namespace s2ft::test
