#include "tune/galore_part.h"

#include <algorithm>

#include "tune/singular.h"

namespace s2ft {

GalorePart::GalorePart(Backend& backend, const Linear& linear,
                       const GaloreOptions& options)
    : options_(options),
      weight_(linear.weight),
      salt_(salted(options.seed, linear.name)) {
  const int64_t side = std::min(weight_.rows, weight_.cols);
  options_.r = std::min(options_.r, side);
  const int64_t r = options_.r;
  Mat update;
  auto place = [&](Arena& arena) {
    update = left() ? arena.matrix(DType::f32, r, weight_.cols)
                    : arena.matrix(DType::f32, weight_.rows, r);
    projection_ = arena.matrix(DType::f32, side, r);
    compute_ =
        weight_.dtype == DType::f32 ? projection_ : arena.matrix(weight_.dtype, side, r);
  };
  Arena count;
  place(count);
  storage_.push_back(backend.allocate(count.peak()));
  Arena arena(storage_.back().data());
  place(arena);
  backend.zero(update);
  backend.zero(projection_);
  backend.zero(compute_);
  // Decay is the weight's affair.
  add(backend, linear, "", "galore", update).decays = false;
  if (linear.bias) add(backend, linear, ".bias", "bias", linear.bias).decays = false;
}

void GalorePart::layout_scratch(Arena& arena, int64_t tokens) {
  dense_ = arena.matrix(DType::f32, weight_.rows, weight_.cols);
  low_ = arena.matrix(weight_.dtype, tokens, options_.r);
}

void GalorePart::project(Backend& backend) {
  const Rng rng(options_.seed, (salt_ + uint64_t(renewal_)) | 1);
  singular_vectors(backend, projection_, dense_, left(), rng);
  backend.copy(compute_, projection_);
  backend.copy(projection_, compute_);
  renewal_ = -1;
}

void GalorePart::projection_loaded(Backend& backend) {
  backend.copy(compute_, projection_);
  renewal_ = -1;
}

void GalorePart::backward(Backend& backend, Mat, Mat dy, Mat x) {
  if (renewal_ >= 0) {
    backend.matmul(dense_, dy, true, x, false, 0);
    project(backend);
  }
  const Mat low = low_.row_range(0, dy.rows), gradient = parameters[0]->gradient;
  if (left()) {
    backend.matmul(low, dy, false, compute_, false, 0);
    backend.matmul(gradient, low, true, x, false, 1);
  } else {
    backend.matmul(low, x, false, compute_, false, 0);
    backend.matmul(gradient, dy, true, low, false, 1);
  }
  if (parameters.size() > 1) backend.sum_rows(parameters[1]->gradient, dy);
}

// AdamW moved the zeros of `update` by the step; here that reaches the weight.
void GalorePart::stepped(Backend& backend, double rate, double decay) {
  const Mat update = parameters[0]->weight;
  backend.scale(update, options_.scale);
  backend.copy(dense_, weight_);
  if (decay > 0) backend.scale(dense_, float(1 - rate * decay));
  if (left()) {
    backend.matmul(dense_, projection_, false, update, false, 1);
  } else {
    backend.matmul(dense_, update, false, projection_, true, 1);
  }
  backend.copy(weight_, dense_);
  backend.zero(update);
}

}  // namespace s2ft
