#include "tune/step_numbers.h"

#include <cmath>
#include <cstring>
#include <string>

#include "model/transformer.h"

namespace s2ft {

namespace {

constexpr size_t kHeader = 64;  // bytes before the losses, which start aligned

}  // namespace

void StepNumbers::expect(Backend& backend, std::vector<Batch> batches) {
  batches_ = std::move(batches);
  begins_.assign(1, 0);
  for (const Batch& batch : batches_)
    begins_.push_back(begins_.back() + int64_t(batch.targets.size()));
  const size_t bytes = kHeader + size_t(begins_.back()) * sizeof(float);
  if (storage_.bytes() >= bytes) return;
  storage_.reset();
  storage_ = backend.allocate(bytes);
}

float* StepNumbers::first_loss() const {
  return reinterpret_cast<float*>(static_cast<char*>(storage_.data()) + kHeader);
}

Mat StepNumbers::losses(size_t batch) const {
  return mat(first_loss() + begins_[batch], DType::f32, 1,
             begins_[batch + 1] - begins_[batch]);
}

void StepNumbers::sum_squares(Backend& backend, const std::vector<Mat>& gradients) {
  backend.sum_of_squares(squares(), gradients.data(), int(gradients.size()));
  const Mat all = mat(first_loss(), DType::f32, 1, begins_.back());
  backend.sum_of_squares(squares() + 1, &all, 1);
}

Clipping StepNumbers::clipping(double max_norm) const {
  return {squares(), max_norm};
}

double StepNumbers::read(Backend& backend) {
  host_.resize(kHeader + size_t(begins_.back()) * sizeof(float));
  backend.download(host_.data(), storage_.data(), host_.size());
  double sum = 0;
  const auto* losses = reinterpret_cast<const float*>(host_.data() + kHeader);
  for (size_t i = 0; i < batches_.size(); ++i) {
    try {
      require_finite(batches_[i], losses + begins_[i]);
    } catch (const NonFiniteRow& e) {
      throw NotFinite(e.what(), int(i), e.sample);
    }
    double batch_sum = 0;
    for (int64_t t = begins_[i]; t < begins_[i + 1]; ++t) batch_sum += losses[t];
    sum += batch_sum;
  }
  return sum;
}

double StepNumbers::gradient_norm() const {
  double square;
  std::memcpy(&square, host_.data(), sizeof square);
  const double norm = std::sqrt(square);
  if (!std::isfinite(norm))
    throw NotFinite("the gradient's norm is " + std::to_string(norm), -1, -1);
  return norm;
}

}  // namespace s2ft
