// A checkpoint on disk, and the same model of it on both devices.
#pragma once

#include <cstdio>

#include "cuda/test/backends.h"
#include "model/load.h"
#include "test/tuner_fixture.h"

namespace s2ft::test {

inline std::shared_ptr<Backend> cpu() {
  CpuOptions options;
  options.threads = 1;
  return make_cpu_backend(options);
}

inline std::shared_ptr<Backend> gpu() {
  return cuda_backends()[0].backend;
}

/// A checkpoint on disk, and models loaded from it.
class Checkpoint {
 public:
  explicit Checkpoint(ModelConfig config = tiny_config()) : config_(std::move(config)) {
    const auto model = tiny_model(config_, DType::f32);
    std::vector<std::pair<std::string, std::string>> names;
    for (const TensorPlace& t : model->tensors) names.emplace_back(t.name, "F32");
    save_tensors(*model, path_, names, {});
  }
  ~Checkpoint() { std::remove(path_.c_str()); }

  std::shared_ptr<Model> load(std::shared_ptr<Backend> backend,
                              Quantization kind = Quantization::none,
                              DType dtype = DType::f32) const {
    return load_model(config_, {path_}, dtype, std::move(backend), kind);
  }

 private:
  std::string path_ = temporary("cuda-model.safetensors");
  ModelConfig config_;
};

}  // namespace s2ft::test
