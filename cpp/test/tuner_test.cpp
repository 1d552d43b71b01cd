// The whole step: gradients of every kind of trainable part against finite differences of
// the loss, and what a tuner does to a model and leaves behind.
#include "tune/tuner.h"

#include <unistd.h>

#include <cstdio>

#include "model/inference.h"
#include "test/check.h"
#include "test/tiny_model.h"

using namespace s2ft;
using namespace s2ft::test;

namespace {

LayerSelection select(std::vector<int32_t> q, std::vector<int32_t> k,
                      std::vector<int32_t> v, std::vector<int32_t> o,
                      std::vector<int32_t> gate, std::vector<int32_t> up,
                      std::vector<int32_t> down) {
  return {q, k, v, o, gate, up, down};
}

MethodSpec s2ft_method() {
  MethodSpec m;
  // q and o overlap in part; gate, up and down differ; layer 1 trains attention only.
  m.selection = {select({4, 1}, {2}, {0, 2}, {1, 5}, {3, 7}, {7, 3, 11}, {11, 20}),
                 select({0}, {}, {1}, {3}, {}, {}, {}),
                 select({}, {}, {}, {}, {22}, {22, 0}, {0, 1, 2})};
  return m;
}

MethodSpec full_method() {
  MethodSpec m;
  m.kind = MethodSpec::Kind::full;
  return m;
}

MethodSpec lora_method(float dropout = 0) {
  MethodSpec m;
  m.kind = MethodSpec::Kind::lora;
  m.lora.r = 3;
  m.lora.scale = 1.7f;
  m.lora.dropout = dropout;
  for (const char* name :
       {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"})
    for (int i : {0, 2})
      m.modules.push_back("model.layers." + std::to_string(i) + "." + name);
  return m;
}

double mean_loss(Model& model, const TinyData& data) {
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

void nudge(Mat w, int64_t i, int64_t j, float by) {
  w.as<float>()[i * w.ld + j] += by;
}

/// Central differences at a few entries of every parameter. f32 forward passes carry
/// about 1e-6 of the loss, so a step of 1e-2 leaves 1e-4, and the curvature about as
/// much.
void check_gradients(ModelConfig config, const MethodSpec& method, Recompute recompute) {
  auto model = tiny_model(config, DType::f32);
  const TinyData data = tiny_data({9, 1, 14, 2}, config.vocab_size);
  Tuner tuner(model, method, OptimizerSpec(), recompute);
  if (method.kind == MethodSpec::Kind::lora) {
    // B starts at zero, where A has no gradient: move both away from it.
    std::vector<std::vector<float>> values;
    Rng rng(5);
    for (const Parameter* p : tuner.parameters()) {
      values.push_back(tuner.values(*p));
      for (float& x : values.back()) x += 0.3f * float(rng.normal());
    }
    tuner.set_values(values);
  }
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

std::string temporary(const char* name) {
  return "/tmp/s2ft-" + std::to_string(getpid()) + "-" + name;
}

}  // namespace

TEST(s2ft_gradients_match_differences) {
  check_gradients(tiny_config(), s2ft_method(), Recompute::selective);
}

TEST(s2ft_gradients_match_with_biases_norms_and_window) {
  ModelConfig c = tiny_config();
  c.qkv_bias = c.o_bias = c.mlp_bias = c.qk_norm = c.tie_word_embeddings = true;
  c.sliding_window = {0, 4, 0};
  check_gradients(c, s2ft_method(), Recompute::selective);
}

TEST(full_gradients_match_differences) {
  ModelConfig c = tiny_config();
  check_gradients(c, full_method(), Recompute::selective);
  c.qkv_bias = c.o_bias = c.mlp_bias = c.qk_norm = c.tie_word_embeddings = true;
  check_gradients(c, full_method(), Recompute::block);
}

TEST(lora_gradients_match_differences) {
  check_gradients(tiny_config(), lora_method(), Recompute::selective);
}

TEST(recompute_policies_agree_bitwise) {
  for (const MethodSpec& method :
       {s2ft_method(), full_method(), lora_method(), lora_method(0.3f)}) {
    std::vector<std::vector<float>> reference;
    for (Recompute r : {Recompute::none, Recompute::selective, Recompute::block}) {
      auto model = tiny_model(tiny_config(), DType::f32);
      const TinyData data = tiny_data({9, 5}, model->config.vocab_size);
      Tuner tuner(model, method, OptimizerSpec(), r);
      for (int i = 0; i < 2; ++i) tuner.step({data.samples()}, 1e-2);
      std::vector<std::vector<float>> now;
      for (const Parameter* p : tuner.parameters()) now.push_back(tuner.values(*p));
      if (reference.empty()) reference = now;
      CHECK(reference == now);
    }
  }
}

TEST(permuted_model_computes_the_same_function) {
  // Other orders of the same sums: f32 rounding only.
  auto model = tiny_model(tiny_config(), DType::f32);
  const TinyData data = tiny_data({17}, model->config.vocab_size);
  const auto before = all_logits(*model, data.tokens[0].data(), 17);
  const std::vector<char> base = weight_bytes(*model);
  Tuner tuner(model, s2ft_method(), OptimizerSpec(), Recompute::selective);
  CHECK(weight_bytes(*model) != base);
  const auto permuted = all_logits(*model, data.tokens[0].data(), 17);
  for (size_t i = 0; i < before.size(); ++i) CHECK_NEAR(permuted[i], before[i], 2e-5);
  tuner.detach();
  CHECK(weight_bytes(*model) == base);
  CHECK(all_logits(*model, data.tokens[0].data(), 17) == before);
}

TEST(training_moves_the_slices_and_detaching_restores_every_bit) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    auto model = tiny_model(tiny_config(), dtype);
    const std::vector<char> base = weight_bytes(*model);
    const TinyData data = tiny_data({13, 6}, model->config.vocab_size);
    Tuner tuner(model, s2ft_method(), OptimizerSpec(), Recompute::selective);
    const double first = tuner.step({data.samples()}, 2e-2).loss;
    double last = first;
    for (int i = 0; i < 20; ++i) last = tuner.step({data.samples()}, 2e-2).loss;
    CHECK(last < first - 0.3);
    const auto tuned = all_logits(*model, data.tokens[0].data(), 13);
    tuner.detach();
    CHECK(weight_bytes(*model) == base);
    tuner.attach();
    CHECK(all_logits(*model, data.tokens[0].data(), 13) == tuned);
    tuner.detach();
    CHECK(weight_bytes(*model) == base);
  }
}

TEST(one_of_two_tuners_at_a_time) {
  auto model = tiny_model(tiny_config(), DType::f32);
  Tuner first(model, s2ft_method(), OptimizerSpec(), Recompute::selective);
  CHECK_THROWS_CODE(Tuner(model, s2ft_method(), OptimizerSpec(), Recompute::selective),
                    "BUSY");
  first.detach();
  Tuner second(model, lora_method(), OptimizerSpec(), Recompute::selective);
  CHECK_THROWS_CODE(first.attach(), "BUSY");
}

TEST(bad_selections_leave_the_model_alone) {
  auto model = tiny_model(tiny_config(), DType::f32);
  const std::vector<char> base = weight_bytes(*model);
  auto refuse = [&](MethodSpec m) {
    CHECK_THROWS_CODE(Tuner(model, m, OptimizerSpec(), Recompute::selective),
                      "INVALID_ARGUMENT");
    CHECK(weight_bytes(*model) == base);
    CHECK(model->tuner == nullptr);
  };
  MethodSpec m = s2ft_method();
  m.selection.pop_back();
  refuse(m);
  m = s2ft_method();
  m.selection[2][kDown] = {23};
  refuse(m);
  m.selection[2][kDown] = {1, 1};
  refuse(m);
  m.selection[2] = select({}, {}, {}, {}, {0, 1}, {1, 2}, {2, 0});  // a ring
  refuse(m);
  m.selection = {{}, {}, {}};
  refuse(m);
  m = lora_method();
  m.modules[3] = "model.layers.9.mlp.up_proj";
  refuse(m);
}

TEST(a_step_that_is_not_finite_or_cancelled_changes_nothing) {
  auto model = tiny_model(tiny_config(), DType::f32);
  const TinyData data = tiny_data({7, 5}, model->config.vocab_size);
  Tuner tuner(model, s2ft_method(), OptimizerSpec(), Recompute::selective);
  tuner.step({data.samples()}, 1e-2);
  const std::vector<char> before = weight_bytes(*model);
  // Token 36 appears in the second sample only.
  TinyData bad = data;
  for (auto& tokens : bad.tokens)
    for (int32_t& t : tokens) t = t == 36 ? 0 : t;
  bad.tokens[1][2] = 36;
  const Mat embedding = model->embedding.value;
  const float kept = embedding.as<float>()[36 * embedding.ld];
  embedding.as<float>()[36 * embedding.ld] = NAN;
  try {
    tuner.step({data.samples(), bad.samples()}, 1e-2);
    CHECK(!"a step with a NaN must throw");
  } catch (const NotFinite& e) {
    CHECK(e.sample == 1);
    CHECK(e.micro_batch == 1 || data.tokens[1] == bad.tokens[1]);
  }
  embedding.as<float>()[36 * embedding.ld] = kept;
  std::atomic<bool> stop{true};
  CHECK_THROWS_CODE(tuner.step({data.samples()}, 1e-2, &stop), "CANCELLED");
  CHECK(weight_bytes(*model) == before);
  tuner.step({data.samples()}, 1e-2);
  CHECK(weight_bytes(*model) != before);
}

TEST(a_resumed_run_is_bitwise_the_same) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (const MethodSpec& method : {s2ft_method(), lora_method(0.2f), full_method()}) {
      const std::string path = temporary("state.safetensors");
      const TinyData data = tiny_data({8, 9}, 37);
      auto run = [&](Tuner& t, int steps) {
        for (int i = 0; i < steps; ++i) t.step({data.samples()}, 1e-2);
      };
      auto whole = tiny_model(tiny_config(), dtype),
           half = tiny_model(tiny_config(), dtype),
           rest = tiny_model(tiny_config(), dtype);
      OptimizerSpec optimizer;
      optimizer.weight_decay = 0.1;
      optimizer.max_grad_norm = 0.5;
      Tuner a(whole, method, optimizer, Recompute::selective);
      run(a, 5);
      {
        Tuner b(half, method, optimizer, Recompute::selective);
        run(b, 3);
        b.save_state(path, {{"note", "kept"}});
      }
      Tuner c(rest, method, optimizer, Recompute::selective);
      CHECK(c.load_state(path)["note"] == "kept");
      run(c, 2);
      CHECK(weight_bytes(*rest) == weight_bytes(*whole));
      // Another method's state does not fit.
      auto other = tiny_model(tiny_config(), dtype);
      MethodSpec m = s2ft_method();
      m.selection[0][kGate].push_back(15);
      m.selection[0][kUp].push_back(15);
      Tuner d(other, m, optimizer, Recompute::selective);
      const std::vector<char> before = weight_bytes(*other);
      bool refused = false;
      try {
        d.load_state(path);
      } catch (const Error&) {
        refused = true;
      }
      CHECK(refused);
      CHECK(weight_bytes(*other) == before);
      std::remove(path.c_str());
    }
  }
}

TEST(accumulation_equals_one_large_batch) {
  // The same sums in another order: f32 rounding of the gradients, then ten steps.
  const TinyData data = tiny_data({8, 9, 5, 3}, 37);
  const std::vector<Sample> s = data.samples();
  auto one = tiny_model(tiny_config(), DType::f32),
       two = tiny_model(tiny_config(), DType::f32);
  Tuner a(one, s2ft_method(), OptimizerSpec(), Recompute::selective);
  Tuner b(two, s2ft_method(), OptimizerSpec(), Recompute::selective);
  const StepResult ra = a.step({s}, 1e-3);
  const StepResult rb = b.step({{s[0]}, {s[1], s[2]}, {s[3]}}, 1e-3);
  CHECK(ra.tokens == rb.tokens);
  CHECK_NEAR(ra.loss, rb.loss, 1e-6);
  CHECK_NEAR(ra.grad_norm, rb.grad_norm, 1e-5);
}

TEST(packing_does_not_leak_between_samples) {
  auto model = tiny_model(tiny_config(), DType::f32);
  const TinyData data = tiny_data({8, 9, 5}, 37);
  const auto together = score(*model, data.samples());
  for (size_t i = 0; i < 3; ++i) {
    const auto alone = score(*model, {data.samples()[i]});
    for (size_t j = 0; j < alone[0].size(); ++j)
      CHECK_NEAR(together[i][j], alone[0][j], 1e-5);
  }
}

TEST(the_plan_is_what_the_arena_takes) {
  auto model = tiny_model(tiny_config(), DType::f32);
  Tuner tuner(model, s2ft_method(), OptimizerSpec(), Recompute::selective);
  const MemoryPlan small = tuner.plan(10, 10), large = tuner.plan(1000, 10);
  CHECK(small.weights == model->bytes());
  CHECK(large.activations > 50 * small.activations);
  const MemoryPlan block = Tuner(tiny_model(tiny_config(), DType::f32), s2ft_method(),
                                 OptimizerSpec(), Recompute::block)
                               .plan(1000, 10);
  CHECK(block.activations < large.activations);
}
