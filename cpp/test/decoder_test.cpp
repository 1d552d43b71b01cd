// Decoding with a cache in pages gives what the whole sequence gives, whatever runs
// beside it and however a prompt is cut; adapters beside the weights act as fused ones
// do.
#include "serve/decoder.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "adapter/fusion.h"
#include "decoder_fixture.h"
#include "model/inference.h"
#include "model/load.h"
#include "test/check.h"
#include "test/tuner_fixture.h"

using namespace s2ft;
using namespace s2ft::test;

namespace {

const DType kTypes[] = {DType::f32, DType::bf16};

std::vector<float> last_logits(Model& model, const std::vector<int32_t>& tokens) {
  const std::vector<float> all = all_logits(model, tokens.data(), int32_t(tokens.size()));
  return {all.end() - model.config.vocab_size, all.end()};
}

int32_t best_of(const std::vector<float>& logits) {
  return int32_t(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

/// The largest difference of a log-probability.
double distance(const Decoded& a, const Decoded& b) {
  double worst = 0;
  for (size_t i = 0; i < a.log_probs.size(); ++i)
    worst = std::max(worst, std::fabs(double(a.log_probs[i]) - b.log_probs[i]));
  return worst;
}

}  // namespace

TEST(cached_decoding_equals_the_whole_sequence) {
  ModelConfig c = tiny_config();
  c.sliding_window = {0, 3, 0};
  c.qk_norm = true;
  auto model = tiny_model(c, DType::f32);
  Runner runner(model, 9);
  std::vector<std::vector<int32_t>> all = tiny_data({5, 11, 1}, c.vocab_size).tokens;
  for (int s = 0; s < 3; ++s) runner.open(s, {}, int32_t(all[size_t(s)].size()));
  std::vector<std::vector<int32_t>> fresh = all;
  for (int step = 0; step < 12; ++step) {
    const auto sampled = runner.pass({{0, fresh[0]}, {1, fresh[1]}, {2, fresh[2]}});
    for (size_t s = 0; s < 3; ++s) {
      const auto logits = last_logits(*model, all[s]);
      double sum = 0;
      for (float x : logits) sum += std::exp(double(x));
      const TokenProbability found = sampled[s].sampled;
      CHECK(sampled[s].finite);
      CHECK(found.token == best_of(logits));
      CHECK_NEAR(found.log_prob, logits[size_t(found.token)] - std::log(sum), 1e-4);
      all[s].push_back(found.token);
      fresh[s] = {found.token};
    }
  }
}

TEST(what_runs_beside_a_sequence_changes_no_bit_of_it) {
  for (DType t : kTypes) {
    auto model = tiny_model(tiny_config(), t);
    const int64_t vocab = model->config.vocab_size;
    const auto prompts =
        tiny_data({3, 70, 1, 19, 8, 33, 2, 5, 11, 27, 4, 6, 16, 9}, vocab).tokens;
    Runner together(model, 80);
    std::vector<Script> scripts;
    for (size_t s = 0; s < prompts.size(); ++s) scripts.push_back({prompts[s]});
    const auto beside = together.run(scripts, 20);
    for (size_t s = 0; s < prompts.size(); ++s) {
      Runner alone(model, 10);
      CHECK(alone.run({scripts[s]}, 20)[0] == beside[s]);
    }
  }
}

TEST(pieces_of_a_prompt_change_no_bit) {
  for (DType t : kTypes) {
    auto model = tiny_model(tiny_config(), t);
    const auto prompt = tiny_data({611}, model->config.vocab_size).tokens[0];
    Runner whole(model, 60), pieces(model, 60);
    const auto expected = whole.run({{prompt}}, 5)[0];
    pieces.open(0, {}, int32_t(prompt.size()));
    DecodedRow last;
    for (size_t at = 0; at < prompt.size();) {
      const size_t n = std::min<size_t>(prompt.size() - at, 1 + at % 97);
      DecodeRow row{0, {prompt.begin() + int64_t(at), prompt.begin() + int64_t(at + n)}};
      at += n;
      row.sample = at == prompt.size();
      last = pieces.pass({row})[0];
    }
    CHECK(expected[0].token == last.sampled.token);
    CHECK(expected[0].log_probs[size_t(last.sampled.token)] == last.sampled.log_prob);
  }
}

TEST(a_shared_beginning_is_computed_once) {
  auto model = tiny_model(tiny_config(), DType::bf16);
  const auto prompt = tiny_data({50}, model->config.vocab_size).tokens[0];
  Runner runner(model, 8);
  const auto expected = runner.run({{prompt}}, 6)[0];
  // Another sequence over the first two pages of a first one, which goes on.
  runner.open(1, {}, 50);
  const DecodedRow first = runner.pass({{1, prompt}})[0];
  SequenceOptions options;
  options.cached = {prompt.begin(), prompt.begin() + 32};
  options.pages = {runner.pages_of(1).begin(), runner.pages_of(1).begin() + 2};
  runner.open(2, options, 50);
  const std::vector<int32_t> rest(prompt.begin() + 32, prompt.end());
  const auto both = runner.pass({{2, rest}, {1, {first.sampled.token}}});
  CHECK(both[0].sampled.token == expected[0].token);
  CHECK(both[0].sampled.log_prob == expected[0].log_probs[size_t(expected[0].token)]);
  CHECK(both[1].sampled.token == expected[1].token);
  CHECK(both[1].sampled.log_prob == expected[1].log_probs[size_t(expected[1].token)]);
}

TEST(prompt_probabilities_are_those_of_scoring) {
  auto model = tiny_model(tiny_config(), DType::f32);
  const TinyData data = tiny_data({45}, model->config.vocab_size);
  const auto& tokens = data.tokens[0];
  const Sample sample{tokens.data(), tokens.data(), int32_t(tokens.size())};
  const std::vector<float> expected = score(*model, {sample}, {}, nullptr)[0];
  Runner runner(model, 4);
  runner.open(0, {}, 45);
  DecodeRow row{0, tokens};
  row.targets.assign(tokens.begin() + 1, tokens.end());
  row.targets.push_back(0);
  const DecodedRow out = runner.pass({row})[0];
  CHECK(out.target_log_probs.size() == 45);
  for (size_t i = 0; i + 1 < tokens.size(); ++i)
    CHECK_NEAR(out.target_log_probs[i], expected[i], 1e-5);
}

TEST(adapters_beside_the_weights_act_as_fused) {
  for (DType t : kTypes) {
    auto model = tiny_model(tiny_config(), t);
    const auto prompts = tiny_data({5, 40}, model->config.vocab_size).tokens;
    for (const AdapterDeltas& adapter : some_adapters(*model)) {
      Runner runner(model, 10);
      CHECK(runner.decoder.add_adapter(7, adapter) > 0);
      const auto beside = runner.run({{prompts[0], 7}, {prompts[1], 7}}, 1);
      const auto base = runner.run({{prompts[0]}, {prompts[1]}}, 1);
      Fusion fusion(model);
      fusion.fuse("a", adapter);
      const auto fused = runner.run({{prompts[0]}, {prompts[1]}}, 1);
      fusion.unfuse("a");
      for (size_t s = 0; s < 2; ++s) {
        // f32: sums in another order. bf16: the fused weight is rounded to 2^-9 of itself
        // and a layer's output once more, through three layers.
        const double allowed = t == DType::f32 ? 1e-4 : 0.15;
        CHECK_NEAR(distance(beside[s][0], fused[s][0]), 0, allowed);
        // The adapter does something, or the comparison would say nothing.
        CHECK(distance(base[s][0], fused[s][0]) > 3 * allowed);
      }
    }
  }
}

TEST(a_batch_mixes_adapters) {
  for (DType t : kTypes) {
    auto model = tiny_model(tiny_config(), t);
    const auto prompts = tiny_data({3, 20, 1, 9, 8, 33, 2, 5}, model->config.vocab_size);
    const std::vector<AdapterDeltas> adapters = some_adapters(*model);
    const auto add_all = [&](Runner& runner) {
      for (size_t i = 0; i < adapters.size(); ++i)
        runner.decoder.add_adapter(int64_t(i), adapters[i]);
    };
    std::vector<Script> scripts;
    for (size_t s = 0; s < prompts.tokens.size(); ++s)
      scripts.push_back({prompts.tokens[s], int64_t(s % (adapters.size() + 1)) - 1});
    Runner together(model, 40);
    add_all(together);
    const auto beside = together.run(scripts, 10);
    for (size_t s = 0; s < scripts.size(); ++s) {
      Runner alone(model, 5);
      add_all(alone);
      CHECK(alone.run({scripts[s]}, 10)[0] == beside[s]);
    }
  }
}

TEST(adapters_act_beside_a_quantized_base) {
  const std::string path = temporary("decoder.safetensors");
  const auto plain = tiny_model(tiny_config(), DType::f32);
  std::vector<std::pair<std::string, std::string>> names;
  for (const TensorPlace& t : plain->tensors) names.emplace_back(t.name, "F32");
  save_tensors(*plain, path, names, {});
  const auto model =
      load_model(plain->config, {path}, DType::f32, plain->backend, Quantization::int8);
  std::remove(path.c_str());
  const auto prompt = tiny_data({12}, model->config.vocab_size).tokens[0];
  const std::vector<AdapterDeltas> adapters = some_adapters(*model);
  Runner runner(model, 4);
  for (size_t i = 0; i < adapters.size(); ++i) {
    runner.decoder.add_adapter(int64_t(i), adapters[i]);
    const auto beside = runner.run({{prompt, int64_t(i)}}, 1)[0];
    Fusion fusion(model);
    fusion.fuse("a", adapters[i]);
    const auto fused = runner.run({{prompt}}, 1)[0];
    fusion.unfuse("a");
    // Low-rank factors meet the same codes either way: sums in another order only. A
    // fused slice brings the checkpoint's own weights along, whose quantization error,
    // about half a percent of each, then lacks.
    const bool slices = !adapters[i].slices.empty();
    CHECK_NEAR(distance(beside[0], fused[0]), 0, slices ? 0.05 : 1e-4);
    CHECK(distance(beside[0], runner.run({{prompt}}, 1)[0][0]) > 0.2);
  }
}

TEST(bad_rows_are_refused_before_anything_is_appended) {
  auto model = tiny_model(tiny_config(), DType::f32);
  CHECK_THROWS_CODE(Decoder(model, 0, 16), "INVALID_ARGUMENT");
  CHECK_THROWS_CODE(Decoder(model, 2, 8), "INVALID_ARGUMENT");
  Decoder decoder(model, 3, 16);
  SequenceOptions options;
  options.prompt = 3;
  decoder.open(0, options);
  decoder.open(1, options);
  CHECK_THROWS_CODE(decoder.open(1, options), "INVALID_ARGUMENT");
  options.adapter = 4;
  CHECK_THROWS_CODE(decoder.open(2, options), "INVALID_ARGUMENT");
  options.adapter = -1;
  options.pages = {3};
  CHECK_THROWS_CODE(decoder.open(2, options), "INVALID_ARGUMENT");
  options.pages = {2};
  options.cached.assign(17, 1);
  CHECK_THROWS_CODE(decoder.open(2, options), "INVALID_ARGUMENT");
  const auto refused = [&](std::vector<DecodeRow> rows) {
    CHECK_THROWS_CODE(decoder.pass(rows), "INVALID_ARGUMENT");
  };
  refused({{0, {1, 2, 3}}});           // no page
  refused({{0, {1, 2, 3}, {-1}}});     // no such page
  refused({{9, {1}, {0}}});            // not open
  refused({{0, {37}, {0}}});           // no such token
  refused({{0, {}, {0}}});             // nothing to append
  refused({{0, {1}, {0}}, {0, {1}}});  // named twice
  refused({{0, {1}, {0}}, {1, {-1}, {1}}});
  DecodeRow targets{0, {1, 2}, {0}};
  targets.targets = {1};
  refused({targets});
  CHECK(decoder.pass({}).empty());
  decoder.pass({{0, {1, 2, 3}, {0}}});
  // Thirteen tokens more fill the page, one more does not fit.
  refused({{0, std::vector<int32_t>(14, 1)}});
  decoder.pass({{0, std::vector<int32_t>(13, 1)}});
  decoder.close(0);
  decoder.close(0);
  decoder.pass({{1, {1}, {0}}});
}

TEST(adapters_that_do_not_fit_are_refused) {
  auto model = tiny_model(tiny_config(), DType::f32);
  Decoder decoder(model, 3, 16);
  AdapterDeltas adapter = some_adapters(*model)[0];
  decoder.add_adapter(1, adapter);
  CHECK_THROWS_CODE(decoder.add_adapter(1, adapter), "INVALID_ARGUMENT");
  CHECK_THROWS_CODE(decoder.add_adapter(-1, adapter), "INVALID_ARGUMENT");
  AdapterDeltas other = adapter;
  other.slices[0].module = "model.layers.9.mlp.down_proj";
  CHECK_THROWS_CODE(decoder.add_adapter(2, other), "ADAPTER_MISMATCH");
  other = adapter;
  other.slices[0].index[0] = 1000;
  CHECK_THROWS_CODE(decoder.add_adapter(2, other), "ADAPTER_MISMATCH");
  other = adapter;
  other.slices.push_back(adapter.slices[0]);
  CHECK_THROWS_CODE(decoder.add_adapter(2, other), "ADAPTER_MISMATCH");
  other = {};
  other.elements.push_back({"model.layers.0.mlp.down_proj", {3}, {1}});
  CHECK_THROWS_CODE(decoder.add_adapter(2, other), "UNSUPPORTED");
  SequenceOptions options;
  options.adapter = 1;
  decoder.open(5, options);
  CHECK_THROWS_CODE(decoder.remove_adapter(1), "BUSY");
  decoder.close(5);
  decoder.remove_adapter(1);
  CHECK_THROWS_CODE(decoder.open(5, options), "INVALID_ARGUMENT");
  decoder.add_adapter(1, adapter);
}
