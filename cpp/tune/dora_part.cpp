#include "tune/dora_part.h"

namespace s2ft {

DoraPart::DoraPart(Backend& backend, const Linear& linear, const LoraOptions& options,
                   bool residual)
    : LoraPart(backend, linear, options),
      keeps_product_(residual || bool(linear.bias)),
      linear_(linear) {
  Mat initial;
  auto place = [&](Arena& arena) {
    for (Mat* m :
         {&initial, &base_squares_, &squares_, &inverse_norms_, &factors_, &inverses_})
      *m = arena.matrix(DType::f32, 1, out_);
  };
  Arena count;
  place(count);
  storage_.push_back(backend.allocate(count.peak()));
  Arena arena(storage_.back().data());
  place(arena);
  Buffer storage;
  const Mat weight = weight_values(backend, linear_, storage);
  backend.dot_rows(base_squares_, weight, weight);
  backend.synchronize();
  backend.inverse_sqrt(inverse_norms_, base_squares_);
  backend.scale_cols(initial, base_squares_, inverse_norms_, false);
  add(backend, linear, ".lora_magnitude_vector", "lora_magnitude_vector", initial);
}

void DoraPart::layout_saved(Arena& arena, int64_t tokens, bool training) {
  LoraPart::layout_saved(arena, tokens, training);
  if (training && keeps_product_) product_ = arena.matrix(dtype_, tokens, out_);
}

void DoraPart::layout_scratch(Arena& arena, int64_t tokens) {
  LoraPart::layout_scratch(arena, tokens);
  apart_ = arena.matrix(dtype_, tokens, out_);
}

void DoraPart::forward(Backend& backend, Mat y, Mat x, bool training) {
  LoraPart::forward(backend, y, x, training);
  if (training && keeps_product_) backend.copy(product_.row_range(0, y.rows), y);
  backend.scale_cols(factors_, magnitude().weight, inverse_norms_, false);
  backend.scale_cols(y, y, factors_, false);
}

Mat DoraPart::through(Backend& backend, Mat dy, Mat y, bool in_place) {
  backend.zero(squares_);
  backend.dot_cols(squares_, dy, keeps_product_ ? product_.row_range(0, dy.rows) : y);
  backend.scale_cols(magnitude().gradient, squares_,
                     keeps_product_ ? inverse_norms_ : inverses_, true);
  const Mat d_product = in_place ? dy : apart_.row_range(0, dy.rows);
  backend.scale_cols(d_product, dy, factors_, false);
  return d_product;
}

// |w + s A^T b|^2 = |w|^2 + s^2 b . (2/s A w + A A^T b) for a row w of W and b of B.
void DoraPart::refresh(Backend& backend) {
  const Mat a = parameters[0]->weight, b = parameters[1]->weight;
  const int64_t r = options_.r;
  const float scale = options_.scale;
  Mat inner, gram, factor;
  auto place = [&](Arena& arena) {
    inner = arena.matrix(DType::f32, out_, r);
    gram = arena.matrix(DType::f32, r, r);
    factor = arena.matrix(DType::f32, out_, r);
  };
  Arena count;
  place(count);
  const Buffer scratch = backend.allocate(count.peak());
  Arena arena(scratch.data());
  place(arena);
  Buffer storage;
  backend.matmul(inner, weight_values(backend, linear_, storage), false, a, true, 0);
  backend.scale(inner, 2 / scale);
  backend.matmul(gram, a, false, a, true, 0);
  backend.copy(factor, b);
  backend.matmul(inner, factor, false, gram, false, 1);
  backend.dot_rows(squares_, inner, factor);
  backend.scale(squares_, scale * scale);
  backend.add(squares_, base_squares_);
  backend.inverse_sqrt(inverse_norms_, squares_);
  // 1 / m = m / |m|^2
  backend.scale_cols(inverses_, magnitude().weight, magnitude().weight, false);
  backend.inverse_sqrt(inverses_, inverses_);
  backend.scale_cols(inverses_, inverses_, inverses_, false);
  backend.scale_cols(inverses_, inverses_, magnitude().weight, false);
}

}  // namespace s2ft
