// Conformance of the cross entropy and of the optimizer's update.
#pragma once

#include "test/conformance/loss_reference.h"

namespace s2ft::test {

TEST(cross_entropy_and_gradient_out_of_place) {
  const float scale = 0.37f;
  for_each_case(
      "cross_entropy", {{1, 1}, {1, 7}, {3, 513}, {9, 1024}, {5, 49157}},
      [&](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
        const Host x = random(s.rows, s.cols, DType::f32, 5);
        auto targets = random_targets(s.rows, s.cols);
        targets[0] = 0;
        targets.back() = int32_t(s.cols - 1);
        Host want(s.rows, s.cols);
        DeviceLosses nll(b, s.rows), alone(b, s.rows);
        Device logits(b, DType::f32, x, gap), d(b, t, s.rows, s.cols, gap ? 2 : 0);
        b.cross_entropy(nll, d, logits, targets.data(), scale);
        const std::vector<float> losses = nll.read();
        for (int64_t i = 0; i < s.rows; ++i) {
          const int32_t target = targets[size_t(i)];
          CHECK_NEAR(losses[size_t(i)], nll_reference(x, i, target, &want), 2e-5);
          want(i, target) -= 1;
        }
        for (double& v : want.v) v *= double(scale);
        expect_near(d.read(what), want, t, 1e-6, what);
        expect_equal(logits.read(what), x, what + " logits kept");
        b.cross_entropy(alone, Mat{}, logits, targets.data(), scale);
        CHECK(alone.read() == losses);
      });
}

// The gradient written over its logits is bitwise the one written elsewhere; the bf16 one
// covers the first half of each row.
TEST(cross_entropy_in_place) {
  for (const NamedBackend& b : backends_under_test()) {
    for (DType t : storage_types()) {
      for (const Shape s : {Shape{1, 1}, {2, 511}, {7, 1031}, {4, 49152}, {64, 2048}}) {
        for (int64_t gap : {0, 6}) {
          const std::string what = label(b, "cross_entropy in place", t, s, gap);
          const Host x = random(s.rows, s.cols, DType::f32, 3);
          const auto targets = random_targets(s.rows, s.cols);
          DeviceLosses nll(*b.backend, s.rows), again(*b.backend, s.rows);
          Device logits(*b.backend, DType::f32, x, gap),
              apart(*b.backend, t, s.rows, s.cols);
          b.backend->cross_entropy(nll, apart, logits, targets.data(), 0.25f);
          Mat over = logits;
          if (t == DType::bf16) over = {over.data, t, over.rows, over.cols, 2 * over.ld};
          b.backend->cross_entropy(again, over, logits, targets.data(), 0.25f);
          Device copied(*b.backend, t, s.rows, s.cols);
          b.backend->copy(copied, over);
          expect_equal(copied.read(what), apart.read(what), what);
          CHECK(nll.read() == again.read());
          logits.read(what);
        }
      }
    }
  }
}

TEST(cross_entropy_gradient_matches_differences) {
  for (const NamedBackend& b : backends_under_test()) {
    const Host x = random(2, 19, DType::f32, 2);
    const auto targets = random_targets(2, 19);
    DeviceLosses nll(*b.backend, 2);
    Device logits(*b.backend, DType::f32, x), d(*b.backend, DType::f32, 2, 19);
    b.backend->cross_entropy(nll, d, logits, targets.data(), 1);
    const Host want = numerical_gradient(
        [&](const Host& h) {
          return nll_reference(h, 0, targets[0], nullptr) +
                 nll_reference(h, 1, targets[1], nullptr);
        },
        x);
    expect_near(d.read(b.name), want, DType::f32, 1e-6, b.name + " cross_entropy");
  }
}

TEST(cross_entropy_of_extreme_logits) {
  for (const NamedBackend& b : backends_under_test()) {
    Host x(3, 70, -1e4);
    for (int64_t j = 0; j < 70; ++j) x(2, j) = -HUGE_VAL;
    x(0, 3) = 1e4, x(1, 69) = 3e38, x(2, 5) = 0, x(2, 6) = 0;
    const std::vector<int32_t> targets = {3, 68, 5};
    DeviceLosses nll(*b.backend, 3);
    Device logits(*b.backend, DType::f32, x), d(*b.backend, DType::f32, 3, 70);
    b.backend->cross_entropy(nll, d, logits, targets.data(), 1);
    const std::vector<float> losses = nll.read();
    CHECK(losses[0] == 0);
    CHECK_NEAR(losses[1], 3e38, 1e33);
    CHECK_NEAR(losses[2], std::log(2.0), 1e-6);
    const Host got = d.read(b.name);
    CHECK(got(0, 3) == 0 && got(0, 4) == 0);
    CHECK(got(1, 68) == -1 && got(1, 69) == 1);
    CHECK_NEAR(got(2, 5), -0.5, 1e-6);
    CHECK_NEAR(got(2, 6), 0.5, 1e-6);
    CHECK(got(2, 7) == 0);
  }
}

TEST(adamw_matches_the_formula) {
  for_each_case(
      "adamw", {{1, 1}, {3, 17}, {129, 257}},
      [](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
        Host value = random(s.rows, s.cols, t), first(s.rows, s.cols),
             second(s.rows, s.cols);
        const bool separate = t == DType::bf16;
        Device weight(b, t, value, gap), master(b, DType::f32, value),
            m(b, DType::f32, first), v(b, DType::f32, second);
        const double rate = 0.01, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, decay = 0.1;
        for (int64_t step = 1; step <= 3; ++step) {
          const Host g = random(s.rows, s.cols, DType::f32);
          Device gradient(b, DType::f32, g);
          AdamW update;
          update.weight = weight;
          if (separate) update.master = master;
          update.gradient = gradient;
          update.first = m;
          update.second = v;
          update.learning_rate = rate;
          update.beta1 = beta1;
          update.beta2 = beta2;
          update.epsilon = eps;
          update.weight_decay = decay;
          update.gradient_scale = 0.5f;
          update.step = step;
          b.adamw(update);
          for (size_t i = 0; i < g.v.size(); ++i) {
            const double scaled = g.v[i] * 0.5;
            first.v[i] = beta1 * first.v[i] + (1 - beta1) * scaled;
            second.v[i] = beta2 * second.v[i] + (1 - beta2) * scaled * scaled;
            const double m_hat = first.v[i] / (1 - std::pow(beta1, double(step))),
                         v_hat = second.v[i] / (1 - std::pow(beta2, double(step)));
            value.v[i] -= rate * decay * value.v[i];
            value.v[i] -= rate * m_hat / (std::sqrt(v_hat) + eps);
          }
        }
        // Three updates of size `rate`, each with a few f32 roundings, and of the value.
        const Host got = weight.read(what);
        expect_near(got, value, t, 2e-6, what);
        expect_near(m.read(what), first, DType::f32, 1e-6, what + " first");
        expect_near(v.read(what), second, DType::f32, 1e-6, what + " second");
        if (separate) {
          Host rounded = master.read(what);
          expect_near(rounded, value, DType::f32, 2e-6, what + " master");
          for (double& x : rounded.v) x = round_to(t, x);
          expect_equal(got, rounded, what + " written back");
        }
      });
}

// Gradients are clipped by what lies on the device, and nothing moves where that is not
// finite.
TEST(adamw_is_clipped_by_numbers_of_the_device) {
  for (const NamedBackend& named : backends_under_test()) {
    Backend& b = *named.backend;
    const int64_t n = 2311;
    const Host value = random(1, n, DType::f32), g = random(1, n, DType::f32);
    double squares = 0;
    for (double x : g.v) squares += x * x;
    struct Case {
      double squares[2];
      double max_norm;
      float factor;  // that the gradient is scaled by; 0: no update
    };
    const double infinite = HUGE_VAL, norm = std::sqrt(squares);
    for (const Case& c : {Case{{squares, 3}, 0, 1},
                          {{squares, 0}, 0.5, float(0.5 / (norm + 1e-6))},
                          {{squares, 1e300}, 2 * norm, 1},
                          {{std::nan(""), 1}, 0, 0},
                          {{infinite, 1}, 1, 0},
                          {{squares, infinite}, 1, 0},
                          {{squares, std::nan("")}, 0, 0}}) {
      Device weight(b, DType::bf16, value), master(b, DType::f32, value),
          gradient(b, DType::f32, g), m(b, DType::f32, Host(1, n)),
          v(b, DType::f32, Host(1, n));
      Device same(b, DType::bf16, value), same_master(b, DType::f32, value),
          same_m(b, DType::f32, Host(1, n)), same_v(b, DType::f32, Host(1, n));
      const Buffer numbers = b.allocate(sizeof c.squares);
      b.upload(numbers.data(), c.squares, sizeof c.squares);
      AdamW update{weight, master, gradient, m, v, 1e-2, 0.9, 0.999, 1e-8, 0.01, 2.0f, 1};
      b.adamw(&update, 1, {static_cast<const double*>(numbers.data()), c.max_norm});
      if (c.factor != 0) {
        b.adamw({same, same_master, gradient, same_m, same_v, 1e-2, 0.9, 0.999, 1e-8,
                 0.01, 2.0f * c.factor, 1});
      }
      const std::string& what = named.name;
      expect_equal(weight.read(what), same.read(what), what + " weight");
      expect_equal(master.read(what), same_master.read(what), what + " master");
      expect_equal(m.read(what), same_m.read(what), what + " first");
      expect_equal(v.read(what), same_v.read(what), what + " second");
    }
  }
}

}  // namespace s2ft::test
