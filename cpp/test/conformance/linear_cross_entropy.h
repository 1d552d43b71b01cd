// Conformance of the loss head as one operation.
#pragma once

#include "test/conformance/loss_reference.h"

namespace s2ft::test {

/// What linear_cross_entropy should give, from whole logits in double.
struct LinearLoss {
  std::vector<double> nll;
  Host dx;             // gradient of the sum of nll, without any scale
  Host reach;          // sum over the vocabulary of p |w|: what rounding a p can move
  double largest = 0;  // logit
};

inline LinearLoss linear_loss_reference(const Host& x, const Host& w,
                                        const std::vector<int32_t>& targets) {
  LinearLoss r{{}, Host(x.rows, x.cols), Host(x.rows, x.cols)};
  Host logits(1, w.rows), p(1, w.rows);
  for (int64_t i = 0; i < x.rows; ++i) {
    for (int64_t v = 0; v < w.rows; ++v) {
      double sum = 0;
      for (int64_t j = 0; j < x.cols; ++j) sum += x(i, j) * w(v, j);
      logits(0, v) = sum;
      r.largest = std::max(r.largest, std::fabs(sum));
    }
    r.nll.push_back(nll_reference(logits, 0, targets[size_t(i)], &p));
    for (int64_t v = 0; v < w.rows; ++v) {
      const double d = p(0, v) - (v == targets[size_t(i)] ? 1 : 0);
      for (int64_t j = 0; j < x.cols; ++j) {
        r.dx(i, j) += d * w(v, j);
        r.reach(i, j) += p(0, v) * std::fabs(w(v, j));
      }
    }
  }
  return r;
}

struct LinearLossCase {
  int64_t rows, width, vocabulary;
  double growth;  // of the logits along the vocabulary: maxima that rise block by block
};

/// Runs one case on one backend, the gradient apart or over the input.
inline void check_linear_loss(const NamedBackend& b, DType t, const LinearLossCase& c,
                              int64_t gap) {
  const float scale = 0.37f;
  const Host x = random(c.rows, c.width, t);
  Host w = random(c.vocabulary, c.width, t, 1 / std::sqrt(double(c.width)));
  for (int64_t v = 0; v < w.rows; ++v) {
    const double factor = 1 + c.growth * double(v) / double(w.rows);
    for (int64_t j = 0; j < w.cols; ++j) w(v, j) = round_to(t, w(v, j) * factor);
  }
  auto targets = random_targets(c.rows, c.vocabulary);
  targets[0] = 0;
  targets.back() = int32_t(c.vocabulary - 1);
  const LinearLoss want = linear_loss_reference(x, w, targets);
  const std::string what = label(b, "linear_cross_entropy", t, {c.rows, c.width}, gap) +
                           " of " + std::to_string(c.vocabulary);
  Device rows(*b.backend, t, x, gap), weight(*b.backend, t, w, gap),
      dx(*b.backend, t, c.rows, c.width, gap);
  const size_t bytes =
      b.backend->linear_cross_entropy_scratch(c.rows, c.width, c.vocabulary);
  Buffer scratch = b.backend->allocate(bytes);
  DeviceLosses losses(*b.backend, c.rows);
  const auto run = [&](Mat gradient) {
    b.backend->linear_cross_entropy(losses, gradient, rows, weight, targets.data(), scale,
                                    scratch.data());
    return losses.read();
  };
  const std::vector<float> nll = run(dx), alone = run(Mat{});
  expect_equal(rows.read(what), x, what + " input kept");
  expect_equal(weight.read(what), w, what + " weight kept");
  CHECK(alone == nll);
  // A logit is an f32 sum of `width` products.
  const double logit_error = 1e-6 * (1 + want.largest) * std::sqrt(double(c.width));
  for (size_t i = 0; i < nll.size(); ++i) CHECK_NEAR(nll[i], want.nll[i], logit_error);
  Host gradient = want.dx;
  for (double& v : gradient.v) v *= double(scale);
  // Terms are rounded to the type of the product; an error of a logit is one of its
  // term, relatively.
  const double term = storage_error(t) + 2 * logit_error;
  const Host got = dx.read(what);
  expect_near(
      got, gradient, t,
      [&](int64_t i, int64_t j) {
        const double at_target = std::fabs(w(targets[size_t(i)], j));
        return double(scale) * (term * want.reach(i, j) + 2 * logit_error * at_target) +
               1e-7;
      },
      what);
  CHECK(run(rows) == nll);
  expect_equal(rows.read(what), got, what + " over its input");
}

TEST(linear_cross_entropy_matches_whole_logits) {
  for (const NamedBackend& b : backends_under_test()) {
    for (DType t : storage_types()) {
      for (const LinearLossCase& c : {LinearLossCase{1, 1, 1, 0},
                                      {1, 5, 7, 0},
                                      {3, 16, 769, 0},
                                      {13, 33, 1601, 0},
                                      {61, 31, 2311, 60},
                                      {1031, 3, 801, 0}}) {
        for (int64_t gap : {0, 6}) check_linear_loss(b, t, c, gap);
      }
    }
  }
}

TEST(linear_cross_entropy_of_equal_logits) {
  const int64_t vocabulary = 1537;
  for (const NamedBackend& b : backends_under_test()) {
    for (DType t : storage_types()) {
      const Host x = random(2, 8, t), one = random(1, 8, t);
      Host w(vocabulary, 8);
      for (int64_t v = 0; v < vocabulary; ++v)
        for (int64_t j = 0; j < 8; ++j) w(v, j) = one(0, j);
      const std::vector<int32_t> targets = {0, 1536};
      Device rows(*b.backend, t, x), weight(*b.backend, t, w), dx(*b.backend, t, 2, 8);
      Buffer scratch =
          b.backend->allocate(b.backend->linear_cross_entropy_scratch(2, 8, vocabulary));
      DeviceLosses nll(*b.backend, 2);
      b.backend->linear_cross_entropy(nll, dx, rows, weight, targets.data(), 1,
                                      scratch.data());
      for (float value : nll.read())
        CHECK_NEAR(value, std::log(double(vocabulary)), 1e-5);
      for (double value : dx.read(b.name).v) CHECK_NEAR(value, 0, 1e-4);
    }
  }
}

// Logits that no exponential spans: one is all of the softmax, or nothing of it.
TEST(linear_cross_entropy_of_far_logits) {
  const int64_t vocabulary = 1601;
  for (const NamedBackend& b : backends_under_test()) {
    for (DType t : storage_types()) {
      for (double far : {1e4, -1e4, 1e30, -1e30}) {
        Host x(3, 1), w(vocabulary, 1);
        for (double& value : x.v) value = 1;
        w(900, 0) = round_to(t, far);
        const double peak = w(900, 0);
        const std::vector<int32_t> targets = {900, 5, 1600};
        Device rows(*b.backend, t, x), weight(*b.backend, t, w), dx(*b.backend, t, 3, 1);
        Buffer scratch = b.backend->allocate(
            b.backend->linear_cross_entropy_scratch(3, 1, vocabulary));
        DeviceLosses nll(*b.backend, 3);
        b.backend->linear_cross_entropy(nll, dx, rows, weight, targets.data(), 1,
                                        scratch.data());
        const Host got = dx.read(b.name);
        const std::vector<float> losses = nll.read();
        const double others = std::log(double(vocabulary - 1));
        for (int64_t i = 0; i < 3; ++i) {
          const bool at_peak = i == 0;
          const double loss =
              peak > 0 ? (at_peak ? 0 : peak) : (at_peak ? others - peak : others);
          const double gradient = (peak > 0) == at_peak ? 0 : peak > 0 ? peak : -peak;
          CHECK_NEAR(losses[size_t(i)], loss, 1e-6 * std::max(1.0, std::fabs(loss)));
          CHECK_NEAR(got(i, 0), gradient, 1e-6 * std::max(1.0, std::fabs(gradient)));
        }
      }
    }
  }
}

TEST(linear_cross_entropy_gradient_matches_differences) {
  for (const NamedBackend& b : backends_under_test()) {
    const Host x = random(2, 5, DType::f32), w = random(11, 5, DType::f32);
    const auto targets = random_targets(2, 11);
    Device rows(*b.backend, DType::f32, x), weight(*b.backend, DType::f32, w),
        dx(*b.backend, DType::f32, 2, 5);
    Buffer scratch =
        b.backend->allocate(b.backend->linear_cross_entropy_scratch(2, 5, 11));
    DeviceLosses nll(*b.backend, 2);
    b.backend->linear_cross_entropy(nll, dx, rows, weight, targets.data(), 1,
                                    scratch.data());
    const Host want = numerical_gradient(
        [&](const Host& h) {
          const LinearLoss r = linear_loss_reference(h, w, targets);
          return r.nll[0] + r.nll[1];
        },
        x);
    expect_near(dx.read(b.name), want, DType::f32, 1e-5, b.name + " linear loss");
  }
}

// A row that cannot be computed says so, and touches no other.
TEST(linear_cross_entropy_keeps_rows_apart) {
  for (const NamedBackend& b : backends_under_test()) {
    Host x = random(3, 8, DType::f32);
    const Host w = random(900, 8, DType::f32);
    x(1, 2) = std::nan("");
    const std::vector<int32_t> targets = {4, 5, 899};
    Device rows(*b.backend, DType::f32, x), weight(*b.backend, DType::f32, w);
    Buffer scratch =
        b.backend->allocate(b.backend->linear_cross_entropy_scratch(3, 8, 900));
    DeviceLosses nll(*b.backend, 3);
    b.backend->linear_cross_entropy(nll, Mat{}, rows, weight, targets.data(), 0,
                                    scratch.data());
    const std::vector<float> losses = nll.read();
    CHECK(std::isnan(losses[1]));
    CHECK(std::isfinite(losses[0]) && std::isfinite(losses[2]));
  }
}

}  // namespace s2ft::test
