#include "model/rope_table.h"

#include <cmath>

namespace s2ft {

std::vector<float> rope_frequencies(const RopeConfig& rope, int head_dim,
                                    int64_t length) {
  const int half = head_dim / 2;
  double theta = rope.theta;
  if (rope.type == RopeConfig::Type::dynamic && length > rope.original_max_positions) {
    const double stretch =
        rope.factor * double(length) / double(rope.original_max_positions) -
        (rope.factor - 1);
    theta *= std::pow(stretch, double(head_dim) / (head_dim - 2));
  }
  std::vector<float> frequencies(half);
  for (int i = 0; i < half; ++i) {
    double f = 1.0 / std::pow(theta, 2.0 * i / head_dim);
    if (rope.type == RopeConfig::Type::linear) f /= rope.factor;
    if (rope.type == RopeConfig::Type::llama3) {
      const double wavelength = 2 * M_PI / f;
      const double original = double(rope.original_max_positions);
      if (wavelength > original / rope.low_freq_factor) {
        f /= rope.factor;
      } else if (wavelength >= original / rope.high_freq_factor) {
        const double smooth = (original / wavelength - rope.low_freq_factor) /
                              (rope.high_freq_factor - rope.low_freq_factor);
        f = (1 - smooth) * f / rope.factor + smooth * f;
      }
    }
    frequencies[i] = float(f);
  }
  return frequencies;
}

int64_t RopeTable::key(int64_t length) const {
  const bool stretched =
      rope_.type == RopeConfig::Type::dynamic && length > rope_.original_max_positions;
  return stretched ? length : 0;
}

bool RopeTable::same_frequencies(int64_t a, int64_t b) const {
  return key(a) == key(b);
}

RopeTable::View RopeTable::view(int64_t length) {
  const int64_t k = key(length);
  // A stretched table serves one length only: keep a few, not one for every length met.
  if (k != 0 && tables_.size() > 8 && !tables_.count(k)) {
    tables_.erase(tables_.upper_bound(0), tables_.end());
  }
  Table& table = tables_[k];
  const int64_t half = head_dim_ / 2;
  if (table.positions < length) {
    int64_t positions = k ? length : std::max<int64_t>(length, 2 * table.positions);
    const std::vector<float> frequencies = rope_frequencies(rope_, head_dim_, length);
    std::vector<float> host(2 * positions * half);
    for (int64_t p = 0; p < positions; ++p) {
      for (int64_t i = 0; i < half; ++i) {
        // The angle is rounded to f32 as PyTorch's implementations do; its cosine is not
        // worth rounding twice.
        const float angle = float(p) * frequencies[i];
        host[p * half + i] = float(std::cos(double(angle)));
        host[(positions + p) * half + i] = float(std::sin(double(angle)));
      }
    }
    table.buffer = backend_->allocate(host.size() * sizeof(float));
    backend_->upload(table.buffer.data(), host.data(), host.size() * sizeof(float));
    table.positions = positions;
  }
  float* data = static_cast<float*>(table.buffer.data());
  return {mat(data, DType::f32, length, half),
          mat(data + table.positions * half, DType::f32, length, half)};
}

}  // namespace s2ft
