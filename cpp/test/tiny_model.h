// A tiny random model for the tests of model, tune, adapter and serve: grouped-query
// attention, odd sizes, every optional tensor switchable.
#pragma once

#include <cmath>
#include <memory>
#include <vector>

#include "core/rng.h"
#include "cpu/cpu_backend.h"
#include "model/batch.h"
#include "model/model.h"

namespace s2ft::test {

inline ModelConfig tiny_config() {
  ModelConfig c;
  c.vocab_size = 37;
  c.hidden_size = 20;
  c.intermediate_size = 23;
  c.layers = 3;
  c.heads = 6;
  c.kv_heads = 3;
  c.head_dim = 6;
  c.sliding_window = {0, 0, 0};
  return c;
}

inline std::shared_ptr<Model> tiny_model(const ModelConfig& config, DType dtype,
                                         uint64_t seed = 1) {
  CpuOptions options;
  options.threads = 2;
  auto model = std::make_shared<Model>(config, dtype, make_cpu_backend(options));
  Rng rng(seed);
  for (TensorPlace& t : model->tensors) {
    const bool norm = t.name.find("norm") != std::string::npos;
    const Mat w = t.value;
    for (int64_t i = 0; i < w.rows; ++i) {
      for (int64_t j = 0; j < w.cols; ++j) {
        const float x = norm ? 1 + 0.1f * float(rng.normal())
                             : float(rng.normal()) / std::sqrt(float(w.cols));
        const int64_t at = i * w.ld + j;
        if (dtype == DType::f32)
          w.as<float>()[at] = x;
        else
          w.as<bf16>()[at] = to_bf16(x);
      }
    }
  }
  return model;
}

/// Samples that own their tokens. The first tokens of each are a prompt.
struct TinyData {
  std::vector<std::vector<int32_t>> tokens, labels;
  std::vector<Sample> samples() const {
    std::vector<Sample> out;
    for (size_t i = 0; i < tokens.size(); ++i)
      out.push_back({tokens[i].data(), labels[i].data(), int32_t(tokens[i].size())});
    return out;
  }
};

inline TinyData tiny_data(const std::vector<int>& lengths, int64_t vocab,
                          uint64_t seed = 2) {
  TinyData d;
  Rng rng(seed);
  for (int n : lengths) {
    std::vector<int32_t> tokens, labels;
    for (int i = 0; i < n; ++i) {
      tokens.push_back(int32_t(rng.below(uint64_t(vocab))));
      labels.push_back(i < n / 3 ? -100 : tokens.back());
    }
    d.tokens.push_back(tokens);
    d.labels.push_back(labels);
  }
  return d;
}

/// The bytes of every tensor, one after the other.
inline std::vector<char> weight_bytes(const Model& model) {
  std::vector<char> out;
  for (const TensorPlace& t : model.tensors) {
    const char* p = static_cast<const char*>(t.value.data);
    out.insert(out.end(), p, p + size_t(t.value.count()) * dtype_size(t.value.dtype));
  }
  return out;
}

}  // namespace s2ft::test
