// What the tests of the tuner share: a specification of every method for the tiny model,
// its loss, and gradients against finite differences.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "model/inference.h"
#include "test/check.h"
#include "test/tiny_model.h"
#include "tune/tuner.h"

namespace s2ft::test {

inline LayerSelection select(std::vector<int32_t> q, std::vector<int32_t> k,
                             std::vector<int32_t> v, std::vector<int32_t> o,
                             std::vector<int32_t> gate, std::vector<int32_t> up,
                             std::vector<int32_t> down) {
  return {q, k, v, o, gate, up, down};
}

inline MethodSpec s2ft_method() {
  MethodSpec m;
  // q and o overlap in part; gate, up and down differ; layer 1 trains attention only.
  m.selection = {select({4, 1}, {2}, {0, 2}, {1, 5}, {3, 7}, {7, 3, 11}, {11, 20}),
                 select({0}, {}, {1}, {3}, {}, {}, {}),
                 select({}, {}, {}, {}, {22}, {22, 0}, {0, 1, 2})};
  return m;
}

/// Units that wait for data.
inline MethodSpec chosen_s2ft_method() {
  MethodSpec m;
  m.choice.strategy = UnitChoice::Strategy::gradient;
  m.choice.counts.assign(3, {2, 1, 1, 2, 3, 3, 5});
  return m;
}

inline MethodSpec full_method() {
  MethodSpec m;
  m.kind = MethodSpec::Kind::full;
  return m;
}

/// LoRA or DoRA on layers 0 and 2, o and down with a rank and a scale of their own.
inline MethodSpec lora_method(float dropout = 0,
                              MethodSpec::Kind kind = MethodSpec::Kind::lora) {
  MethodSpec m;
  m.kind = kind;
  for (const char* name :
       {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
    LoraOptions options;
    const bool residual = std::strcmp(name, "self_attn.o_proj") == 0 ||
                          std::strcmp(name, "mlp.down_proj") == 0;
    options.r = residual ? 2 : 3;
    options.scale = residual ? 0.8f : 1.7f;
    options.dropout = dropout;
    for (int i : {0, 2})
      m.lora.push_back({"model.layers." + std::to_string(i) + "." + name, options});
  }
  return m;
}

inline MethodSpec dora_method(float dropout = 0) {
  return lora_method(dropout, MethodSpec::Kind::dora);
}

/// LoRA's B starts at zero, where A has no gradient: moves all values away from it.
inline void move_values(Tuner& tuner, double by) {
  std::vector<std::vector<float>> values;
  Rng rng(5);
  for (const Parameter* p : tuner.parameters()) {
    values.push_back(tuner.values(*p));
    for (float& x : values.back()) x += float(by * rng.normal());
  }
  tuner.set_values(values);
}

inline MethodSpec sparse_method(
    SparseOptions::Selection selection = SparseOptions::Selection::random,
    double share = 0.1) {
  MethodSpec m;
  m.kind = MethodSpec::Kind::sparse;
  m.sparse.selection = selection;
  m.sparse.share = share;
  for (const LoraModule& module : lora_method().lora) m.modules.push_back(module.name);
  return m;
}

inline MethodSpec lisa_method(int layers = 1, int64_t interval = 2) {
  MethodSpec m;
  m.kind = MethodSpec::Kind::lisa;
  m.lisa = {layers, interval, 4};
  return m;
}

inline MethodSpec galore_method(int64_t r = 4, int64_t interval = 2) {
  MethodSpec m;
  m.kind = MethodSpec::Kind::galore;
  m.galore.r = r;
  m.galore.interval = interval;
  m.galore.scale = 1;
  return m;
}

/// Behind layers 0 and 2, more positions than the shorter prompts of tiny_data have.
inline MethodSpec loreft_method(bool shared = true, float dropout = 0) {
  MethodSpec m;
  m.kind = MethodSpec::Kind::loreft;
  m.loreft.r = 3;
  m.loreft.first = 1;
  m.loreft.last = 2;
  m.loreft.shared = shared;
  m.loreft.dropout = dropout;
  m.layers = {0, 2};
  return m;
}

inline double mean_loss(Model& model, const TinyData& data) {
  double sum = 0;
  int64_t n = 0;
  const auto scores = score(model, data.samples());
  for (size_t s = 0; s < scores.size(); ++s) {
    for (size_t i = 0; i < scores[s].size(); ++i) {
      if (data.labels[s][i + 1] == -100) continue;
      sum -= scores[s][i];
      ++n;
    }
  }
  return sum / double(n);
}

inline void nudge(Mat w, int64_t i, int64_t j, float by) {
  w.as<float>()[i * w.ld + j] += by;
}

/// Central differences at a few entries of every parameter. f32 forward passes carry
/// about 1e-6 of the loss, so a step of 1e-2 leaves 1e-4, and the curvature about as
/// much.
inline void check_gradients(std::shared_ptr<Model> model, const MethodSpec& method,
                            Recompute recompute) {
  const TinyData data = tiny_data({9, 1, 14, 2}, model->config.vocab_size);
  Tuner tuner(model, method, OptimizerSpec(), recompute);
  if (!method.lora.empty()) move_values(tuner, 0.3);
  const double loss = tuner.gradients(data.samples());
  CHECK_NEAR(loss, mean_loss(*model, data), 1e-5);
  Rng rng(11);
  for (const Parameter* p : tuner.parameters()) {
    const std::vector<float> gradient = tuner.gradient(*p);
    const Mat w = p->weight;
    double largest = 0;
    for (float g : gradient) largest = std::max(largest, double(std::fabs(g)));
    CHECK(largest > 0);
    for (int trial = 0; trial < 3; ++trial) {
      const int64_t i = int64_t(rng.below(uint64_t(w.rows)));
      const int64_t j = int64_t(rng.below(uint64_t(w.cols)));
      const float h = 1e-2f;
      nudge(w, i, j, h);
      const double up = mean_loss(*model, data);
      nudge(w, i, j, -2 * h);
      const double down = mean_loss(*model, data);
      nudge(w, i, j, h);
      const double expected = (up - down) / (2 * h);
      CHECK_NEAR(gradient[size_t(i * w.cols + j)], expected,
                 4e-4 + 2e-2 * std::fabs(expected));
    }
  }
}

inline void check_gradients(ModelConfig config, const MethodSpec& method,
                            Recompute recompute) {
  check_gradients(tiny_model(config, DType::f32), method, recompute);
}

inline std::string temporary(const char* name) {
  return "/tmp/s2ft-" + std::to_string(getpid()) + "-" + name;
}

}  // namespace s2ft::test
