// The whole step: gradients of every kind of trainable part against finite differences of
// the loss, and what a tuner does to a model and leaves behind.
#include <cstdio>

#include "test/tuner_fixture.h"

using namespace s2ft;
using namespace s2ft::test;

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
       {s2ft_method(), full_method(), lora_method(), lora_method(0.3f), dora_method(),
        dora_method(0.3f), sparse_method(), galore_method()}) {
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
  m.lora[3].name = "model.layers.9.mlp.up_proj";
  refuse(m);
  m.lora[3].name = m.lora[2].name;
  refuse(m);
  m.lora.resize(1);
  m.lora[0].options.r = 0;
  refuse(m);
  refuse(sparse_method(SparseOptions::Selection::random, 0));
  refuse(sparse_method(SparseOptions::Selection::random, 1.5));
  refuse(galore_method(0));
  refuse(galore_method(4, 0));
  refuse(lisa_method(0));
  refuse(lisa_method(4));
  refuse(lisa_method(1, 0));
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
    for (const MethodSpec& method :
         {s2ft_method(), chosen_s2ft_method(), lora_method(0.2f), dora_method(0.2f),
          lisa_method(1, 2), lisa_method(2, 3),
          sparse_method(SparseOptions::Selection::gradient), galore_method(3, 2),
          galore_method(3, 4), full_method()}) {
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
      a.calibrate({data.samples()});
      run(a, 5);
      {
        Tuner b(half, method, optimizer, Recompute::selective);
        b.calibrate({data.samples()});
        run(b, 3);
        b.save_state(path, {{"note", "kept"}});
      }
      Tuner c(rest, method, optimizer, Recompute::selective);
      // Masks and units that data chose come from the state.
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

TEST(candidates_score_as_last_tokens_do) {
  auto model = tiny_model(tiny_config(), DType::f32);
  const TinyData data = tiny_data({8, 1, 5}, 37);
  const auto samples = data.samples();
  const std::vector<std::vector<int32_t>> candidates = {{3, 36, 3}, {0, 7}, {}};
  const auto rows = score(*model, samples, candidates);
  const auto plain = score(*model, samples);
  for (size_t s = 0; s < samples.size(); ++s) {
    CHECK(rows[s].size() == plain[s].size() + candidates[s].size());
    for (size_t i = 0; i < plain[s].size(); ++i)
      CHECK_NEAR(rows[s][i], plain[s][i], 1e-5);
    for (size_t c = 0; c < candidates[s].size(); ++c) {
      std::vector<int32_t> longer(samples[s].tokens,
                                  samples[s].tokens + samples[s].length);
      longer.push_back(candidates[s][c]);
      const Sample whole{longer.data(), nullptr, int32_t(longer.size())};
      CHECK_NEAR(rows[s][plain[s].size() + c], score(*model, {whole})[0].back(), 1e-5);
    }
  }
  const std::vector<std::vector<int32_t>> few = {{3}}, unknown = {{37}, {}, {}};
  CHECK_THROWS_CODE(score(*model, samples, few), "INVALID_ARGUMENT");
  CHECK_THROWS_CODE(score(*model, samples, unknown), "INVALID_ARGUMENT");
}

TEST(the_plan_is_what_the_arena_takes) {
  auto model = tiny_model(tiny_config(), DType::f32);
  Tuner tuner(model, s2ft_method(), OptimizerSpec(), Recompute::selective);
  const MemoryPlan small = tuner.plan(10, 10, 1), large = tuner.plan(1000, 10, 1);
  CHECK(small.weights == model->bytes());
  CHECK(large.activations > 50 * small.activations);
  const MemoryPlan block = Tuner(tiny_model(tiny_config(), DType::f32), s2ft_method(),
                                 OptimizerSpec(), Recompute::block)
                               .plan(1000, 10, 1);
  CHECK(block.activations < large.activations);
}
