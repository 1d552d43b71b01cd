// What is fused into one weight: its bits depend on the parts alone, whatever was in it
// before, and only what the parts touch is kept.
#include "adapter/fused_weight.h"

#include <algorithm>

#include "core/rng.h"
#include "cpu/cpu_backend.h"
#include "test/check.h"

using namespace s2ft;
using namespace s2ft::test;

namespace {

std::shared_ptr<Backend> two_threads() {
  CpuOptions options;
  options.threads = 2;
  return make_cpu_backend(options);
}

std::vector<float> normals(Rng& rng, int64_t n, float scale) {
  std::vector<float> out;
  for (int64_t i = 0; i < n; ++i) out.push_back(scale * float(rng.normal()));
  return out;
}

/// A weight in backend memory and the bytes that it began with.
struct Base {
  Base(Backend& backend, DType dtype, int64_t rows, int64_t cols) : b(backend) {
    Rng rng(3);
    storage = b.allocate(size_t(rows * cols) * dtype_size(dtype));
    w = mat(storage.data(), dtype, rows, cols);
    for (int64_t i = 0; i < w.count(); ++i) {
      // Every tenth is a zero, with either sign: a restored weight keeps the sign.
      const float x = i % 10 ? float(rng.normal()) : (i % 20 ? 0.0f : -0.0f);
      if (dtype == DType::f32)
        w.as<float>()[i] = x;
      else
        w.as<bf16>()[i] = to_bf16(x);
    }
    base = bytes();
  }
  std::vector<char> bytes() const {
    const char* p = static_cast<const char*>(w.data);
    return {p, p + storage.bytes()};
  }
  double at(int64_t i, int64_t j) const {
    const int64_t place = i * w.cols + j;
    return w.dtype == DType::f32 ? double(w.as<float>()[place])
                                 : double(to_float(w.as<bf16>()[place]));
  }
  void set(FusedWeight& fused, const std::vector<FusedWeight::Part>& parts) {
    fused.apply(b, w, fused.plan(b, w, parts));
  }

  Backend& b;
  Buffer storage;
  Mat w;
  std::vector<char> base;
};

SliceDelta random_slice(Rng& rng, bool rows, int64_t count, Mat w) {
  SliceDelta s;
  s.rows = rows;
  std::vector<int32_t> all(static_cast<size_t>(rows ? w.rows : w.cols));
  for (size_t i = 0; i < all.size(); ++i) all[i] = int32_t(i);
  rng.shuffle(all.data(), all.size());
  s.index.assign(all.begin(), all.begin() + count);
  s.delta = normals(rng, count * (rows ? w.cols : w.rows), 0.1f);
  return s;
}

ElementDelta random_mask(Rng& rng, Mat w) {
  ElementDelta e;
  for (int64_t i = int64_t(rng.below(7)); i < w.count(); i += 1 + int64_t(rng.below(40)))
    e.places.push_back(int32_t(i));
  e.delta = normals(rng, int64_t(e.places.size()), 0.1f);
  return e;
}

LoraDelta random_low_rank(Rng& rng, int64_t r, Mat w, bool magnitudes) {
  LoraDelta l;
  l.r = r, l.scale = 0.5f;
  l.a = normals(rng, r * w.cols, 0.3f);
  l.b = normals(rng, r * w.rows, 0.3f);
  if (magnitudes)
    for (int64_t i = 0; i < w.rows; ++i) l.magnitudes.push_back(1 + rng.uniform());
  return l;
}

float rounded(DType t, float x) {
  return t == DType::f32 ? x : to_float(to_bf16(x));
}

}  // namespace

TEST(any_history_leaves_the_bits_of_what_is_in) {
  const auto backend = two_threads();
  for (DType dtype : {DType::f32, DType::bf16}) {
    Base weight(*backend, dtype, 131, 257);  // large enough for two threads
    Rng rng(11);
    const Mat w = weight.w;
    const SliceDelta rows = random_slice(rng, true, 70, w),
                     few = random_slice(rng, true, 3, w),
                     cols = random_slice(rng, false, 130, w),
                     other = random_slice(rng, false, 90, w);
    const ElementDelta mask = random_mask(rng, w);
    const LoraDelta lora = random_low_rank(rng, 4, w, false),
                    dora = random_low_rank(rng, 2, w, true);
    const std::vector<FusedWeight::Part> all = {&rows, &few,  &cols, &other,
                                                &mask, &lora, &dora};
    FusedWeight fused;
    for (int turn = 0; turn < 60; ++turn) {
      std::vector<FusedWeight::Part> parts;
      const size_t most = turn % 3 ? 5 : all.size();  // often without low-rank parts
      for (size_t i = 0; i < most; ++i)
        if (rng.below(3) == 0) parts.push_back(all[i]);
      weight.set(fused, parts);
      Base fresh(*backend, dtype, w.rows, w.cols);
      FusedWeight once;
      fresh.set(once, parts);
      CHECK(weight.bytes() == fresh.bytes());
      CHECK(fused.kept_bytes() == once.kept_bytes());
      if (parts.empty()) CHECK(weight.bytes() == weight.base);
    }
    weight.set(fused, {});
    CHECK(weight.bytes() == weight.base);
    CHECK(fused.kept_bytes() == 0);
  }
}

TEST(slices_add_up_in_order_and_touch_nothing_else) {
  const auto backend = two_threads();
  for (DType dtype : {DType::f32, DType::bf16}) {
    Base weight(*backend, dtype, 131, 257);
    Rng rng(12);
    const Mat w = weight.w;
    const SliceDelta rows = random_slice(rng, true, 20, w),
                     cols = random_slice(rng, false, 30, w);
    std::vector<float> want;
    for (int64_t i = 0; i < w.rows; ++i)
      for (int64_t j = 0; j < w.cols; ++j) want.push_back(float(weight.at(i, j)));
    for (size_t i = 0; i < rows.index.size(); ++i)
      for (int64_t j = 0; j < w.cols; ++j) {
        float& x = want[size_t(rows.index[i] * w.cols + j)];
        x = rounded(dtype, x + rows.delta[i * size_t(w.cols) + size_t(j)]);
      }
    for (int64_t i = 0; i < w.rows; ++i)
      for (size_t j = 0; j < cols.index.size(); ++j) {
        float& x = want[size_t(i * w.cols + cols.index[j])];
        x = rounded(dtype, x + cols.delta[size_t(i) * cols.index.size() + j]);
      }
    FusedWeight fused;
    weight.set(fused, {&rows, &cols});
    for (int64_t i = 0; i < w.rows; ++i)
      for (int64_t j = 0; j < w.cols; ++j)
        CHECK(weight.at(i, j) == double(want[size_t(i * w.cols + j)]));
  }
}

TEST(only_what_is_touched_is_kept) {
  const auto backend = two_threads();
  for (DType dtype : {DType::f32, DType::bf16}) {
    const size_t size = dtype_size(dtype);
    Base weight(*backend, dtype, 64, 96);
    Rng rng(13);
    const SliceDelta rows = random_slice(rng, true, 3, weight.w),
                     cols = random_slice(rng, false, 5, weight.w), none;
    const ElementDelta mask = random_mask(rng, weight.w);
    const LoraDelta lora = random_low_rank(rng, 2, weight.w, false);
    FusedWeight fused;
    weight.set(fused, {&rows});
    CHECK(fused.kept_bytes() == 3 * 96 * size);
    weight.set(fused, {&cols});
    CHECK(fused.kept_bytes() == 64 * 5 * size);
    weight.set(fused, {&cols, &mask, &none});
    CHECK(fused.kept_bytes() == (64 * 5 + mask.places.size()) * size);
    weight.set(fused, {&cols, &lora});
    CHECK(fused.kept_bytes() == 64 * 96 * size);
    weight.set(fused, {&rows});
    CHECK(fused.kept_bytes() == 3 * 96 * size);
    weight.set(fused, {});
    CHECK(fused.kept_bytes() == 0);
    CHECK(weight.bytes() == weight.base);
  }
}

TEST(low_rank_adapters_are_whole_over_all_blocks) {
  const auto backend = two_threads();
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (bool magnitudes : {false, true}) {
      Base weight(*backend, dtype, 405, 2101);  // four blocks by three
      Rng rng(14);
      const Mat w = weight.w;
      const LoraDelta first = random_low_rank(rng, 3, w, magnitudes),
                      l = random_low_rank(rng, 3, w, magnitudes);
      std::vector<double> base;
      for (int64_t i = 0; i < w.rows; ++i)
        for (int64_t j = 0; j < w.cols; ++j) base.push_back(weight.at(i, j));
      FusedWeight fused;
      weight.set(fused, {&first});
      weight.set(fused, {&l});
      const double tolerance = dtype == DType::f32 ? 2e-6 : 1.0 / 256;
      for (int64_t i = 0; i < w.rows; ++i) {
        std::vector<double> want;
        double squares = 0;
        for (int64_t j = 0; j < w.cols; ++j) {
          double v = 0;
          for (int64_t k = 0; k < l.r; ++k)
            v += double(l.b[size_t(i * l.r + k)]) * l.a[size_t(k * w.cols + j)];
          want.push_back(base[size_t(i * w.cols + j)] + l.scale * v);
          squares += want.back() * want.back();
        }
        const double factor =
            magnitudes ? l.magnitudes[size_t(i)] / std::sqrt(squares) : 1;
        for (int64_t j = 0; j < w.cols; ++j) {
          const double value = factor * want[size_t(j)];
          CHECK_NEAR(weight.at(i, j), value, tolerance * std::max(1.0, std::fabs(value)));
        }
      }
      weight.set(fused, {});
      CHECK(weight.bytes() == weight.base);
    }
  }
}
