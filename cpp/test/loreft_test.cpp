// LoReFT: its positions, its gradients against differences, rotations that stay
// rotations, and the same numbers from training, scoring and decoding.
#include "adapter/fusion.h"
#include "serve/decoder.h"
#include "test/tuner_fixture.h"

using namespace s2ft;
using namespace s2ft::test;

namespace {

TinyData prompts() {
  // Prompts of 4, 0, 3, 1 and 5 tokens.
  return tiny_data({14, 2, 9, 3, 16}, tiny_config().vocab_size);
}

/// Largest element of R R^T - I.
double off_rotation(const Mat r) {
  double most = 0;
  const float* x = r.as<float>();
  for (int64_t i = 0; i < r.rows; ++i)
    for (int64_t j = 0; j < r.rows; ++j) {
      double dot = i == j ? -1 : 0;
      for (int64_t k = 0; k < r.cols; ++k)
        dot += double(x[i * r.cols + k]) * x[j * r.cols + k];
      most = std::max(most, std::fabs(dot));
    }
  return most;
}

/// A direction along which R stays a rotation to first order: x - (x R^T + R x^T) R / 2.
std::vector<double> tangent(const Mat r, Rng& rng) {
  const int64_t n = r.rows, d = r.cols;
  std::vector<double> x(size_t(n * d)), overlap(size_t(n * n), 0.0);
  for (double& v : x) v = rng.normal() / std::sqrt(double(n * d));
  auto at = [&](int64_t i, int64_t k) { return double(r.as<float>()[i * d + k]); };
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t k = 0; k < d; ++k)
        overlap[size_t(i * n + j)] +=
            (x[size_t(i * d + k)] * at(j, k) + at(i, k) * x[size_t(j * d + k)]) / 2;
  std::vector<double> out = x;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t k = 0; k < d; ++k)
        out[size_t(i * d + k)] -= overlap[size_t(i * n + j)] * at(j, k);
  return out;
}

void check_directions(ModelConfig config, MethodSpec method, Recompute recompute) {
  auto model = tiny_model(config, DType::f32);
  const TinyData data = prompts();
  Tuner tuner(model, method, OptimizerSpec(), recompute);
  CHECK_NEAR(tuner.gradients(data.samples()), mean_loss(*model, data), 1e-5);
  Rng rng(3);
  for (const Parameter* p : tuner.parameters()) {
    const std::vector<float> gradient = tuner.gradient(*p);
    const Mat w = p->weight;
    for (int trial = 0; trial < 3; ++trial) {
      std::vector<double> direction;
      if (p->kind == "loreft_R")
        direction = tangent(w, rng);
      else
        for (int64_t i = 0; i < w.count(); ++i)
          direction.push_back(rng.normal() / std::sqrt(double(w.count())));
      double expected = 0;
      for (size_t i = 0; i < direction.size(); ++i)
        expected += gradient[i] * direction[i];
      const double h = 2e-2;
      auto move = [&](double by) {
        for (size_t i = 0; i < direction.size(); ++i)
          w.as<float>()[i] += float(by * direction[i]);
      };
      move(h);
      const double up = mean_loss(*model, data);
      move(-2 * h);
      const double down = mean_loss(*model, data);
      move(h);
      CHECK_NEAR((up - down) / (2 * h), expected, 3e-4 + 1e-2 * std::fabs(expected));
    }
    double largest = 0;
    for (float g : gradient) largest = std::max(largest, double(std::fabs(g)));
    CHECK(largest > 1e-4);
  }
}

/// What a trained tuner would leave in an adapter.
AdapterDeltas adapter_of(Tuner& tuner, const MethodSpec& method) {
  AdapterDeltas adapter;
  const auto& p = tuner.parameters();
  const size_t each = p.size() / method.layers.size();
  for (size_t i = 0; i < method.layers.size(); ++i) {
    LoreftDelta l;
    l.layer = method.layers[i];
    l.options = method.loreft;
    for (size_t j = i * each; j < (i + 1) * each; j += 3)
      l.sets.push_back(
          {tuner.values(*p[j]), tuner.values(*p[j + 1]), tuner.values(*p[j + 2])});
    adapter.lorefts.push_back(l);
  }
  return adapter;
}

}  // namespace

TEST(loreft_places_cover_a_prompt_without_overlap) {
  for (int first = 0; first <= 5; ++first)
    for (int last = 0; last <= 5; ++last)
      for (int n = 0; n <= 12; ++n) {
        const PromptPlaces p = prompt_places(n, first, last);
        CHECK(p.prefix >= 0 && p.suffix >= 0);
        CHECK(p.prefix + p.suffix == std::min(n, first + last));
        CHECK(p.prefix <= first && p.suffix <= last);
      }
  // As in the paper: half of a short prompt each, the odd one to the suffix.
  CHECK(prompt_places(9, 7, 7).prefix == 4 && prompt_places(9, 7, 7).suffix == 5);
}

TEST(loreft_gradients_match_differences) {
  ModelConfig c = tiny_config();
  for (Recompute r : {Recompute::none, Recompute::selective, Recompute::block})
    check_directions(c, loreft_method(), r);
  // Behind the last layer a prefix reaches no position that predicts.
  MethodSpec split = loreft_method(false);
  split.layers = {0, 1};
  check_directions(c, split, Recompute::selective);
  c.qkv_bias = c.o_bias = c.mlp_bias = c.qk_norm = true;
  MethodSpec only_last = loreft_method(false);
  only_last.loreft.first = 0;
  only_last.loreft.last = 9;
  only_last.layers = {1};
  check_directions(c, only_last, Recompute::block);
}

TEST(loreft_dropout_gradients_match_differences_of_its_masked_pass) {
  // Dropout is off in scoring, so the differences come from gradients() of the same step,
  // whose masks repeat.
  auto model = tiny_model(tiny_config(), DType::f32);
  const TinyData data = prompts();
  Tuner tuner(model, loreft_method(true, 0.4f), OptimizerSpec(), Recompute::selective);
  const double loss = tuner.gradients(data.samples());
  CHECK(std::fabs(loss - mean_loss(*model, data)) > 1e-3);
  Rng rng(8);
  for (const Parameter* p : tuner.parameters()) {
    if (p->kind == "loreft_R") continue;
    tuner.gradients(data.samples());
    const std::vector<float> gradient = tuner.gradient(*p);
    for (int trial = 0; trial < 3; ++trial) {
      const int64_t i = int64_t(rng.below(uint64_t(p->weight.rows)));
      const int64_t j = int64_t(rng.below(uint64_t(p->weight.cols)));
      const float h = 1e-2f;
      nudge(p->weight, i, j, h);
      const double up = tuner.gradients(data.samples());
      nudge(p->weight, i, j, -2 * h);
      const double down = tuner.gradients(data.samples());
      nudge(p->weight, i, j, h);
      const double expected = (up - down) / (2 * h);
      CHECK_NEAR(gradient[size_t(i * p->weight.cols + j)], expected,
                 4e-4 + 2e-2 * std::fabs(expected));
    }
  }
}

TEST(loreft_trains_and_its_rotations_stay) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    auto model = tiny_model(tiny_config(), dtype);
    const std::vector<char> before = weight_bytes(*model);
    const TinyData data = prompts();
    OptimizerSpec optimizer;
    optimizer.weight_decay = 0.1;
    Tuner tuner(model, loreft_method(false, 0.1f), optimizer, Recompute::selective);
    for (const Parameter* p : tuner.parameters())
      if (p->kind == "loreft_R") CHECK(off_rotation(p->weight) < 1e-5);
    const double start = mean_loss(*model, data);
    for (int i = 0; i < 40; ++i) tuner.step({data.samples()}, 2e-2);
    CHECK(mean_loss(*model, data) < start - 0.1);
    for (const Parameter* p : tuner.parameters())
      if (p->kind == "loreft_R") CHECK(off_rotation(p->weight) < 1e-5);
    CHECK(weight_bytes(*model) == before);
  }
}

TEST(loreft_steps_are_the_same_under_every_recompute_policy_and_packing) {
  std::vector<std::vector<float>> reference;
  for (Recompute r : {Recompute::none, Recompute::selective, Recompute::block}) {
    auto model = tiny_model(tiny_config(), DType::f32);
    const TinyData data = prompts();
    Tuner tuner(model, loreft_method(), OptimizerSpec(), r);
    for (int i = 0; i < 3; ++i) {
      if (r != Recompute::block) {
        tuner.step({data.samples()}, 1e-2);
        continue;
      }
      std::vector<std::vector<Sample>> single;
      for (const Sample& sample : data.samples()) single.push_back({sample});
      tuner.step(single, 1e-2);
    }
    std::vector<std::vector<float>> found;
    for (const Parameter* p : tuner.parameters()) found.push_back(tuner.values(*p));
    if (reference.empty()) reference = found;
    for (size_t i = 0; i < found.size(); ++i)
      for (size_t j = 0; j < found[i].size(); ++j)
        CHECK_NEAR(found[i][j], reference[i][j], 2e-4);
  }
}

TEST(loreft_fused_is_trained_and_unfused_is_the_base) {
  for (bool shared : {true, false}) {
    auto model = tiny_model(tiny_config(), DType::f32);
    const TinyData data = prompts();
    const double base = mean_loss(*model, data);
    Fusion fusion(model);
    const MethodSpec method = loreft_method(shared);
    double trained;
    AdapterDeltas adapter;
    {
      Tuner tuner(model, method, OptimizerSpec(), Recompute::selective);
      for (int i = 0; i < 3; ++i) tuner.step({data.samples()}, 1e-2);
      trained = mean_loss(*model, data);
      adapter = adapter_of(tuner, method);
    }
    CHECK(mean_loss(*model, data) == base);
    fusion.fuse("a", adapter);
    CHECK(mean_loss(*model, data) == trained);
    CHECK_THROWS_CODE(fusion.fuse("b", adapter), "UNSUPPORTED");
    CHECK_THROWS_CODE(Tuner(model, method, OptimizerSpec(), Recompute::selective),
                      "BUSY");
    fusion.unfuse("a");
    CHECK(mean_loss(*model, data) == base);
    adapter.lorefts[0].sets[0].bias.pop_back();
    CHECK_THROWS_CODE(fusion.fuse("a", adapter), "ADAPTER_MISMATCH");
    CHECK(mean_loss(*model, data) == base);
  }
}

TEST(loreft_decodes_as_it_scores) {
  auto model = tiny_model(tiny_config(), DType::f32);
  const MethodSpec method = loreft_method(false);
  AdapterDeltas adapter;
  {
    Tuner tuner(model, method, OptimizerSpec(), Recompute::selective);
    move_values(tuner, 0.3);
    adapter = adapter_of(tuner, method);
  }
  Fusion fusion(model);
  fusion.fuse("a", adapter);
  const std::vector<int32_t> prompt = {3, 1, 30, 9, 9, 2, 17};
  Decoder decoder(model, 2, 16);
  SequenceOptions sequence, other;
  sequence.prompt = int32_t(prompt.size());
  other.prompt = 2;
  decoder.open(0, sequence);
  decoder.open(1, other);
  // Another sequence beside it must not move the positions.
  const auto first = decoder.pass({{1, {5, 6}, {0}}, {0, prompt, {1}}});
  std::vector<int32_t> tokens = prompt;
  std::vector<float> found = {first[1].sampled.log_prob};
  tokens.push_back(first[1].sampled.token);
  for (int i = 0; i < 6; ++i) {
    const auto next = decoder.pass({{0, {tokens.back()}}});
    found.push_back(next[0].sampled.log_prob);
    tokens.push_back(next[0].sampled.token);
  }
  std::vector<int32_t> labels = tokens;
  std::fill(labels.begin(), labels.begin() + int64_t(prompt.size()), -100);
  const auto scores =
      score(*model, {{tokens.data(), labels.data(), int32_t(tokens.size())}});
  for (size_t i = 0; i < found.size(); ++i)
    CHECK_NEAR(found[i], scores[0][prompt.size() - 1 + i], 1e-4);
}

TEST(loreft_resumes_bitwise) {
  const TinyData data = prompts();
  const MethodSpec method = loreft_method(true, 0.2f);
  const std::string path = temporary("loreft.safetensors");
  std::vector<std::vector<float>> straight, resumed;
  {
    auto model = tiny_model(tiny_config(), DType::f32);
    Tuner tuner(model, method, OptimizerSpec(), Recompute::selective);
    for (int i = 0; i < 4; ++i) {
      if (i == 2) tuner.save_state(path, {});
      tuner.step({data.samples()}, 1e-2);
    }
    for (const Parameter* p : tuner.parameters()) straight.push_back(tuner.values(*p));
  }
  auto model = tiny_model(tiny_config(), DType::f32);
  Tuner tuner(model, method, OptimizerSpec(), Recompute::selective);
  tuner.load_state(path);
  for (int i = 0; i < 2; ++i) tuner.step({data.samples()}, 1e-2);
  for (const Parameter* p : tuner.parameters()) resumed.push_back(tuner.values(*p));
  CHECK(straight == resumed);
  std::remove(path.c_str());
}

TEST(loreft_needs_prompts_and_sound_options) {
  auto model = tiny_model(tiny_config(), DType::f32);
  TinyData data = prompts();
  data.labels = data.tokens;
  {
    Tuner tuner(model, loreft_method(), OptimizerSpec(), Recompute::selective);
    CHECK_THROWS_CODE(tuner.step({data.samples()}, 1e-2), "INVALID_ARGUMENT");
  }
  auto refused = [&](auto change) {
    MethodSpec m = loreft_method();
    change(m);
    CHECK_THROWS_CODE(Tuner(model, m, OptimizerSpec(), Recompute::selective),
                      "INVALID_ARGUMENT");
    CHECK(!model->layers[0].intervention && !model->tuner);
  };
  refused([](MethodSpec& m) { m.loreft.r = 21; });
  refused([](MethodSpec& m) { m.loreft.first = m.loreft.last = 0; });
  refused([](MethodSpec& m) { m.layers = {3}; });
  refused([](MethodSpec& m) { m.layers = {1, 1}; });
  refused([](MethodSpec& m) { m.layers = {}; });
}

TEST(loreft_plans_for_its_positions_only) {
  auto model = tiny_model(tiny_config(), DType::f32);
  Tuner tuner(model, loreft_method(), OptimizerSpec(), Recompute::selective);
  const size_t one = tuner.plan(1024, 512, 1).activations;
  const size_t many = tuner.plan(1024, 512, 101).activations;
  // 300 rows more: x and u for two layers; scratch once: two of d, one of r.
  const size_t rows = 300 * sizeof(float) * (2 * (20 + 3) + 2 * 20 + 3);
  CHECK(many > one && many - one < rows + 8192 && many - one > rows - 8192);
}
