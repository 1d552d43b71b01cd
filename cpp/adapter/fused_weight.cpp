#include "adapter/fused_weight.h"

#include <algorithm>
#include <cmath>

#include "model/elements.h"

namespace s2ft {

namespace {

// A low-rank product is made and added a block at a time: the block stays in the caches,
// and no second matrix of the weight's size ever exists.
constexpr int64_t kBlockRows = 128, kBlockCols = 1024;

Mat upload_floats(Backend& backend, const std::vector<float>& host, int64_t rows,
                  int64_t cols, Buffer& storage) {
  storage = backend.allocate(host.size() * sizeof(float));
  backend.upload(storage.data(), host.data(), host.size() * sizeof(float));
  return mat(storage.data(), DType::f32, rows, cols);
}

/// The floats where operations can read them. A copy would cost a slice of columns as
/// much as its switch.
Mat floats_of(Backend& backend, const std::vector<float>& host, int64_t rows,
              int64_t cols, Buffer& storage) {
  if (!backend.host_memory()) return upload_floats(backend, host, rows, cols, storage);
  return mat(const_cast<float*>(host.data()), DType::f32, rows, cols);
}

struct Block {
  int64_t row, rows, col, cols;
  Mat of(Mat m) const { return m.row_range(row, rows).col_range(col, cols); }
};

/// Rows of a DoRA adapter need all their columns at once: their lengths are set.
Block first_block(Mat w, bool whole_rows) {
  const int64_t cols = whole_rows ? w.cols : std::min(w.cols, kBlockCols);
  const int64_t rows = std::max<int64_t>(1, kBlockRows * kBlockCols / cols);
  return {0, std::min(w.rows, rows), 0, cols};
}

/// From the change of base rows to one after which row i has length lengths[i].
void set_row_lengths(Backend& backend, Mat change, Mat base, const float* lengths) {
  std::vector<float> d(size_t(change.count()));
  std::vector<char> w(size_t(base.count()) * dtype_size(base.dtype));
  backend.synchronize();
  backend.download(d.data(), change.data, d.size() * sizeof(float));
  backend.download(w.data(), base.data, w.size());
  for (int64_t i = 0; i < base.rows; ++i) {
    const int64_t first = i * base.cols, end = first + base.cols;
    double squares = 0;
    for (int64_t j = first; j < end; ++j) {
      const double v = double(read_element(w.data(), base.dtype, j)) + d[size_t(j)];
      squares += v * v;
    }
    const double factor = squares > 0 ? lengths[i] / std::sqrt(squares) : 0;
    for (int64_t j = first; j < end; ++j) {
      const double before = read_element(w.data(), base.dtype, j);
      d[size_t(j)] = float(factor * (before + d[size_t(j)]) - before);
    }
  }
  backend.upload(change.data, d.data(), d.size() * sizeof(float));
}

}  // namespace

/// A mask's elements are the rows of a matrix of one column.
Mat FusedWeight::view(Mat weight, Kind kind) {
  if (kind != Kind::elements) return weight;
  return mat(weight.data, weight.dtype, weight.count(), 1);
}

void FusedWeight::put(Backend& backend, Mat weight, const Kept& kept) {
  const Mat w = view(weight, kept.kind);
  if (kept.kind == Kind::cols)
    backend.scatter_cols(w, kept.values, kept.index.data());
  else
    backend.scatter_rows(w, kept.values, kept.index.data());
}

void FusedWeight::take(Backend& backend, Mat weight, const Kept& kept) {
  const Mat w = view(weight, kept.kind);
  if (kept.kind == Kind::cols)
    backend.gather_cols(kept.values, w, kept.index.data());
  else
    backend.gather_rows(kept.values, w, kept.index.data());
}

void FusedWeight::add(Backend& backend, Mat weight, const Step& step, Mat before) {
  const Kept& place = step.original;
  const Mat w = view(weight, place.kind);
  if (place.kind == Kind::cols) {
    backend.add_cols(w, before, step.delta, place.index.data());
    return;
  }
  if (before) backend.gather_rows(before, w, place.index.data());
  backend.scatter_add_rows(w, step.delta, place.index.data());
}

FusedWeight::Plan FusedWeight::plan(Backend& backend, Mat w,
                                    const std::vector<Part>& parts) const {
  Plan plan;
  for (const Part& part : parts)
    plan.low_rank = plan.low_rank || std::holds_alternative<const LoraDelta*>(part);
  const auto place = [&](Kind kind, const std::vector<int32_t>& index,
                         const std::vector<float>& delta) {
    if (index.empty()) return;
    const int64_t n = int64_t(index.size());
    const int64_t rows = kind == Kind::cols ? w.rows : n;
    const int64_t cols = kind == Kind::cols ? n : view(w, kind).cols;
    Step step;
    step.delta = floats_of(backend, delta, rows, cols, step.storage[0]);
    step.original.kind = kind;
    step.original.index = index;
    if (!plan.low_rank) {
      Kept& kept = step.original;
      kept.storage = backend.allocate(delta.size() * dtype_size(w.dtype));
      kept.values = mat(kept.storage.data(), w.dtype, rows, cols);
    }
    plan.steps.push_back(std::move(step));
  };
  for (const Part& part : parts) {
    if (const auto* slice = std::get_if<const SliceDelta*>(&part)) {
      place((*slice)->rows ? Kind::rows : Kind::cols, (*slice)->index, (*slice)->delta);
    } else if (const auto* mask = std::get_if<const ElementDelta*>(&part)) {
      place(Kind::elements, (*mask)->places, (*mask)->delta);
    } else {
      const LoraDelta& lora = *std::get<const LoraDelta*>(part);
      std::vector<float> b = lora.b;
      for (float& value : b) value *= lora.scale;
      Step step;
      step.lora = &lora;
      step.a = floats_of(backend, lora.a, lora.r, w.cols, step.storage[0]);
      step.b = upload_floats(backend, b, w.rows, lora.r, step.storage[1]);
      plan.steps.push_back(std::move(step));
    }
  }
  if (plan.low_rank) {
    if (!whole_.data())
      plan.whole = backend.allocate(size_t(w.count()) * dtype_size(w.dtype));
    const Block narrow = first_block(w, false), wide = first_block(w, true);
    const int64_t most = std::max(narrow.rows * narrow.cols, wide.rows * wide.cols);
    plan.product = backend.allocate(size_t(most) * sizeof(float));
  }
  return plan;
}

/// Adds one low-rank adapter; where `to` is given it first becomes `from`, block by
/// block, so that both are still in the caches when the product comes.
void FusedWeight::add_low_rank(Backend& backend, Mat w, const Step& step, Mat product,
                               Mat to, Mat from) const {
  const std::vector<float>& lengths = step.lora->magnitudes;
  const Mat base = mat(whole_.data(), w.dtype, w.rows, w.cols);
  const Block first = first_block(w, !lengths.empty());
  for (int64_t row = 0; row < w.rows; row += first.rows) {
    for (int64_t col = 0; col < w.cols; col += first.cols) {
      const Block block{row, std::min(first.rows, w.rows - row), col,
                        std::min(first.cols, w.cols - col)};
      const Mat b = step.b.row_range(row, block.rows);
      const Mat a = step.a.col_range(col, block.cols);
      if (to) backend.copy(block.of(to), block.of(from));
      if (w.dtype == DType::f32 && lengths.empty()) {
        backend.matmul(block.of(w), b, false, a, false, 1);
        continue;
      }
      const Mat change = mat(product.data, DType::f32, block.rows, block.cols);
      backend.matmul(change, b, false, a, false, 0);
      if (!lengths.empty())
        set_row_lengths(backend, change, block.of(base), lengths.data() + row);
      backend.add(block.of(w), change);
    }
  }
}

/// Whether one slice of columns leaves as another one comes, which is one pass over rows.
bool FusedWeight::switches_cols(const Plan& plan) const {
  return !kept_.empty() && kept_.back().kind == Kind::cols && !plan.low_rank &&
         plan.steps.size() == 1 && plan.steps[0].original.kind == Kind::cols;
}

void FusedWeight::apply(Backend& backend, Mat w, Plan plan) {
  if (switches_cols(plan)) {
    const Kept old = std::move(kept_.back());
    kept_.pop_back();
    for (const Kept& kept : kept_) put(backend, w, kept);
    kept_.clear();
    Step& step = plan.steps[0];
    backend.replace_cols(w, old.values, old.index.data(), step.original.values,
                         step.delta, step.original.index.data());
    backend.synchronize();
    kept_.push_back(std::move(step.original));
    return;
  }
  for (const Kept& kept : kept_) put(backend, w, kept);
  kept_.clear();
  // What has to be copied first, the base back or a copy of it, waits for a low-rank
  // adapter that goes over the whole weight anyway.
  Mat to, from;
  if (whole_.data()) {
    to = w, from = mat(whole_.data(), w.dtype, w.rows, w.cols);
  } else if (plan.low_rank) {
    whole_ = std::move(plan.whole);
    to = mat(whole_.data(), w.dtype, w.rows, w.cols), from = w;
  }
  if (to && (plan.steps.empty() || !plan.steps[0].lora)) {
    backend.copy(to, from);
    to = {};
  }
  if (!plan.low_rank) {
    backend.synchronize();
    whole_.reset();
  }
  // A slice alone is kept while it is changed. Several may overlap.
  const bool alone = plan.steps.size() == 1 && !plan.low_rank;
  if (!plan.low_rank && !alone)
    for (const Step& step : plan.steps) take(backend, w, step.original);
  const Mat product = mat(plan.product.data(), DType::f32, 0, 0);
  for (const Step& step : plan.steps) {
    if (step.lora)
      add_low_rank(backend, w, step, product, to, from);
    else
      add(backend, w, step, alone ? step.original.values : Mat{});
    to = {};
  }
  backend.synchronize();
  if (plan.low_rank) return;
  for (Step& step : plan.steps) kept_.push_back(std::move(step.original));
}

size_t FusedWeight::kept_bytes() const {
  size_t bytes = whole_.bytes();
  for (const Kept& kept : kept_) bytes += kept.storage.bytes();
  return bytes;
}

}  // namespace s2ft
