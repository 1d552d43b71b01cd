// DoRA: gradients with norms taken for constants, and the weight that it stands for.
#include "adapter/fusion.h"
#include "test/tuner_fixture.h"

using namespace s2ft;
using namespace s2ft::test;

// Nudged factors leave the norms as they were, so the differences are those of the
// gradient that takes the norms for constants.
TEST(dora_gradients_match_differences) {
  ModelConfig c = tiny_config();
  for (Recompute r : {Recompute::none, Recompute::selective, Recompute::block})
    check_gradients(c, dora_method(), r);
  c.qk_norm = true;
  check_gradients(c, dora_method(), Recompute::selective);
  c.qkv_bias = c.o_bias = c.mlp_bias = c.qk_norm = true;
  check_gradients(c, dora_method(), Recompute::block);
}

TEST(dora_starts_at_the_base_and_is_the_fused_weight) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    auto model = tiny_model(tiny_config(), dtype);
    const TinyData data = tiny_data({13, 6}, model->config.vocab_size);
    const int32_t* tokens = data.tokens[0].data();
    const auto base = all_logits(*model, tokens, 13);
    Tuner tuner(model, dora_method(), OptimizerSpec(), Recompute::selective);
    // The base's own arithmetic, but for the lengths' rounding.
    const double tolerance = dtype == DType::f32 ? 2e-5 : 6e-2;
    // Of the fused weight, over all logits. bf16: weights, products and activations of
    // two layers are rounded in other places, some 30 times by 2^-9 of a value; single
    // logits may lie several such deviations apart.
    const double share = dtype == DType::f32 ? 2e-6 : 0x1p-5;
    const auto start = all_logits(*model, tokens, 13);
    for (size_t i = 0; i < base.size(); ++i) CHECK_NEAR(start[i], base[i], tolerance);
    move_values(tuner, 0.2);
    const auto tuned = all_logits(*model, tokens, 13);
    AdapterDeltas adapter;
    const auto& p = tuner.parameters();
    for (size_t i = 0; i < p.size(); i += 3) {
      LoraDelta l;
      l.module = p[i]->module;
      l.r = p[i]->weight.rows;
      l.a = tuner.values(*p[i]);
      l.b = tuner.values(*p[i + 1]);
      l.magnitudes = tuner.values(*p[i + 2]);
      const bool residual = l.module.find("o_proj") != std::string::npos ||
                            l.module.find("down_proj") != std::string::npos;
      l.scale = residual ? 0.8f : 1.7f;
      adapter.loras.push_back(l);
    }
    tuner.detach();
    Fusion fusion(model);
    fusion.fuse("dora", adapter);
    const auto fused = all_logits(*model, tokens, 13);
    double moved = 0, apart = 0, all = 0;
    for (size_t i = 0; i < tuned.size(); ++i) {
      const double difference = double(fused[i]) - tuned[i];
      apart += difference * difference;
      all += double(tuned[i]) * tuned[i];
      moved = std::max(moved, double(std::fabs(tuned[i] - base[i])));
    }
    CHECK_NEAR(std::sqrt(apart / all), 0, share);
    CHECK(moved > 0.3);
  }
}

TEST(dora_keeps_products_only_where_the_model_has_no_output) {
  const ModelConfig c = tiny_config();
  auto bytes = [&](const MethodSpec& method, Recompute recompute) {
    auto model = tiny_model(c, DType::f32);
    Tuner tuner(model, method, OptimizerSpec(), recompute);
    return int64_t(tuner.plan(512, 100, 1).activations);
  };
  const int64_t tokens = 512 * sizeof(float), slack = 4096;
  // Beside LoRA's: o's and down's product in two layers, scratch for the widest output,
  // and a copy of gate and up that lies over what the head has.
  const int64_t kept = bytes(dora_method(), Recompute::selective) -
                       bytes(lora_method(), Recompute::selective);
  const int64_t most =
      tokens * (2 * 2 * c.hidden_size + c.qkv_size() + 2 * c.intermediate_size);
  CHECK(kept > tokens * 2 * 2 * c.hidden_size - slack);
  CHECK(kept < most + slack);
  // Layers take turns where each is computed again.
  const int64_t saved = bytes(dora_method(), Recompute::block);
  MethodSpec one = dora_method();
  one.lora.erase(std::remove_if(one.lora.begin(), one.lora.end(),
                                [](const LoraModule& m) {
                                  return m.name.find("layers.2.") != std::string::npos;
                                }),
                 one.lora.end());
  CHECK(saved == bytes(one, Recompute::block));
}
