#include "tune/scores.h"

#include <cmath>

namespace s2ft {

namespace {

/// Tokens that a probe takes at a time: its scratch stays small.
constexpr int64_t kBlock = 64;

std::vector<float> download(Backend& backend, Mat row) {
  std::vector<float> host(static_cast<size_t>(row.cols));
  backend.synchronize();
  backend.download(host.data(), row.data, host.size() * sizeof(float));
  return host;
}

Mat row_of(const Buffer& buffer, int64_t cols) {
  return mat(buffer.data(), DType::f32, 1, cols);
}

}  // namespace

void add_squares(Backend& backend, const ModelConfig& config, Module module, Mat m,
                 UnitScores& scores) {
  const bool by_cols = module == kO || module == kDown;
  const int64_t n = by_cols ? m.cols : m.rows;
  const Buffer buffer = backend.allocate(size_t(n) * sizeof(float));
  const Mat squares = row_of(buffer, n);
  if (by_cols) {
    backend.zero(squares);
    backend.dot_cols(squares, m, m);
  } else {
    backend.dot_rows(squares, m, m);
  }
  std::vector<double>& sums = scores[group_of(module)];
  const int64_t units = unit_count(config, module), width = n / units;
  sums.resize(size_t(units), 0.0);
  const std::vector<float> host = download(backend, squares);
  for (int64_t i = 0; i < n; ++i) sums[size_t(i / width)] += host[size_t(i)];
}

void take_roots(UnitScores& scores) {
  for (std::vector<double>& group : scores)
    for (double& x : group) x = std::sqrt(x);
}

UnitScores weight_scores(Backend& backend, const ModelConfig& config, const Layer& layer,
                         const LayerCounts& counts) {
  UnitScores scores;
  for (int m = 0; m < kModules; ++m) {
    if (counts[m] == 0) continue;
    Buffer storage;
    const Mat weight = weight_values(backend, *layer.linears[m], storage);
    add_squares(backend, config, Module(m), weight, scores);
  }
  take_roots(scores);
  return scores;
}

// -- activations ---------------------------------------------------------------------

ActivationProbe::ActivationProbe(Backend& backend, int64_t columns,
                                 std::vector<int64_t> widths)
    : columns_(columns), widths_(std::move(widths)) {
  for (int64_t width : widths_) {
    const int64_t units = columns_ / width;
    sums_.push_back(backend.allocate(size_t(units) * sizeof(float)));
    backend.zero(row_of(sums_.back(), units));
  }
}

void ActivationProbe::layout_scratch(Arena& arena, int64_t) {
  values_ = arena.matrix(DType::f32, kBlock, columns_);
  norms_ = arena.matrix(DType::f32, kBlock, columns_);
}

void ActivationProbe::forward(Backend& backend, Mat, Mat x, bool) {
  for (size_t w = 0; w < widths_.size(); ++w) {
    const int64_t width = widths_[w], units = columns_ / width;
    for (int64_t begin = 0; begin < rows; begin += kBlock) {
      const int64_t n = std::min(kBlock, rows - begin), count = n * units;
      const Mat values = values_.row_range(0, n);
      backend.copy(values, x.row_range(begin, n));
      const Mat squares = mat(norms_.data, DType::f32, 1, count);
      if (width == 1) {
        const Mat flat = mat(values_.data, DType::f32, 1, count);
        backend.scale_cols(squares, flat, flat, false);
      } else {
        const Mat split = mat(values_.data, DType::f32, count, width);
        backend.dot_rows(squares, split, split);
      }
      // sqrt(x) = x / sqrt(x)
      const Mat inverse = mat(values_.data, DType::f32, 1, count);
      backend.inverse_sqrt(inverse, squares);
      backend.scale_cols(squares, squares, inverse, false);
      backend.sum_rows(row_of(sums_[w], units), mat(norms_.data, DType::f32, n, units));
    }
  }
}

std::vector<double> ActivationProbe::sums(Backend& backend, size_t width) const {
  const std::vector<float> host =
      download(backend, row_of(sums_[width], columns_ / widths_[width]));
  return {host.begin(), host.end()};
}

// -- gradients -----------------------------------------------------------------------

GradientProbe::GradientProbe(Backend& backend, const Linear& linear) {
  const Mat w = linear.weight;
  storage_ = backend.allocate(size_t(w.count()) * sizeof(float));
  gradient_ = mat(storage_.data(), DType::f32, w.rows, w.cols);
  backend.zero(gradient_);
}

void GradientProbe::backward(Backend& backend, Mat, Mat dy, Mat x) {
  backend.matmul(gradient_, dy, true, x, false, 1);
}

}  // namespace s2ft
