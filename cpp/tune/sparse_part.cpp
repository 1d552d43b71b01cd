#include "tune/sparse_part.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/rng.h"

namespace s2ft {

std::vector<int32_t> random_places(int64_t n, int64_t count, uint64_t seed,
                                   uint64_t stream) {
  // Floyd's sampling: as many draws as places, and one bit an element.
  std::vector<bool> taken(static_cast<size_t>(n), false);
  Rng rng(seed, stream | 1);
  for (int64_t last = n - count; last < n; ++last) {
    const size_t drawn = size_t(rng.below(uint64_t(last) + 1));
    taken[taken[drawn] ? size_t(last) : drawn] = true;
  }
  std::vector<int32_t> places;
  places.reserve(size_t(count));
  for (int64_t i = 0; i < n; ++i)
    if (taken[size_t(i)]) places.push_back(int32_t(i));
  return places;
}

std::vector<int32_t> largest_places(std::vector<float> magnitudes, int64_t count) {
  for (float& x : magnitudes) x = std::fabs(x);
  std::vector<float> order = magnitudes;
  std::nth_element(order.begin(), order.begin() + (count - 1), order.end(),
                   std::greater<float>());
  const float threshold = order[size_t(count - 1)];
  order = std::vector<float>();
  int64_t above = 0;
  for (float x : magnitudes) above += x > threshold;
  int64_t equal = count - above;
  std::vector<int32_t> places;
  places.reserve(size_t(count));
  for (size_t i = 0; i < magnitudes.size(); ++i)
    if (magnitudes[i] > threshold || (magnitudes[i] == threshold && equal-- > 0))
      places.push_back(int32_t(i));
  return places;
}

namespace {

std::vector<float> to_host(Backend& backend, Mat x) {
  const Buffer staging = backend.allocate(size_t(x.count()) * sizeof(float));
  backend.copy(mat(staging.data(), DType::f32, x.rows, x.cols), x);
  backend.synchronize();
  std::vector<float> host(size_t(x.count()));
  backend.download(host.data(), staging.data(), host.size() * sizeof(float));
  return host;
}

Mat flat(Mat x) {
  return mat(x.data, x.dtype, 1, x.count());
}

}  // namespace

SparsePart::SparsePart(Backend& backend, const Linear& linear,
                       const SparseOptions& options)
    : weight_(linear.weight) {
  const int64_t n = weight_.count();
  if (n > INT32_MAX)
    throw Error("UNSUPPORTED", "[sparse] " + linear.name +
                                   ": expected a weight of fewer than 2^31 elements, "
                                   "found " +
                                   std::to_string(n));
  const int64_t count =
      std::min(n, std::max<int64_t>(1, std::llround(options.share * double(n))));
  Mat values;
  auto place = [&](Arena& arena) {
    values = arena.matrix(DType::f32, 1, count);
    base_ = arena.matrix(DType::f32, 1, count);
  };
  Arena size;
  place(size);
  storage_.push_back(backend.allocate(size.peak()));
  Arena arena(storage_.back().data());
  place(arena);
  const bool by_weight = options.selection == SparseOptions::Selection::weight;
  std::vector<int32_t> places =
      by_weight
          ? largest_places(to_host(backend, weight_), count)
          : random_places(n, count, options.seed, salted(options.seed, linear.name));
  backend.zero(base_);
  backend.gather_elements(base_, weight_, places.data());
  backend.copy(values, base_);
  add(backend, linear, "", "sparse", values).index = std::move(places);
}

void SparsePart::layout_scratch(Arena& arena, int64_t) {
  dense_ = arena.matrix(DType::f32, weight_.rows, weight_.cols);
}

void SparsePart::backward(Backend& backend, Mat, Mat dy, Mat x) {
  if (scores_ && !squares_) return backend.matmul(scores_, dy, true, x, false, 1);
  backend.matmul(dense_, dy, true, x, false, 0);
  if (scores_) {
    backend.scale_cols(flat(scores_), flat(dense_), flat(dense_), true);
  } else {
    backend.gather_elements(parameters[0]->gradient, dense_, parameters[0]->index.data());
  }
}

void SparsePart::refresh(Backend& backend) {
  backend.scatter_elements(weight_, parameters[0]->weight, parameters[0]->index.data());
}

void SparsePart::take_out(Backend& backend) {
  backend.scatter_elements(weight_, base_, parameters[0]->index.data());
}

void SparsePart::begin_scoring(Backend& backend, bool squares) {
  score_storage_ = backend.allocate(score_bytes());
  scores_ = mat(score_storage_.data(), DType::f32, weight_.rows, weight_.cols);
  squares_ = squares;
  backend.zero(scores_);
}

void SparsePart::end_scoring(Backend& backend, bool selecting) {
  if (!scores_) return;
  std::vector<float> scores;
  if (selecting) scores = to_host(backend, scores_);
  scores_ = Mat{};
  score_storage_.reset();
  if (!selecting) return;
  for (float x : scores)
    if (!std::isfinite(x))
      throw Error("NOT_FINITE", "[sparse] " + parameters[0]->name +
                                    ": a gradient of the calibration data is " +
                                    std::to_string(x));
  select(backend, largest_places(std::move(scores), parameters[0]->weight.cols));
}

void SparsePart::select(Backend& backend, std::vector<int32_t> places) {
  Parameter& p = *parameters[0];
  bool fits = int64_t(places.size()) == p.weight.cols && places.front() >= 0 &&
              places.back() < weight_.count();
  for (size_t i = 1; i < places.size(); ++i) fits = fits && places[i - 1] < places[i];
  if (!fits)
    throw Error("SHAPE_MISMATCH",
                "[sparse] " + p.name + ": expected " + std::to_string(p.weight.cols) +
                    " ascending places of " + std::to_string(weight_.count()));
  take_out(backend);
  p.index = std::move(places);
  backend.zero(base_);
  backend.gather_elements(base_, weight_, p.index.data());
  backend.copy(p.weight, base_);
  for (Mat m : {p.gradient, p.first, p.second}) backend.zero(m);
  backend.synchronize();
}

}  // namespace s2ft
