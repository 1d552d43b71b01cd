// Decoding with a cache gives what the whole sequence gives; sampling does what it says.
#include "serve/decoder.h"

#include <cmath>
#include <map>

#include "model/inference.h"
#include "test/check.h"
#include "test/tiny_model.h"

using namespace s2ft;
using namespace s2ft::test;

namespace {

int32_t best_of(const std::vector<float>& logits, size_t row, size_t vocab) {
  size_t best = 0;
  for (size_t i = 1; i < vocab; ++i)
    if (logits[row * vocab + i] > logits[row * vocab + best]) best = i;
  return int32_t(best);
}

}  // namespace

TEST(cached_decoding_equals_the_whole_sequence) {
  ModelConfig c = tiny_config();
  c.sliding_window = {0, 3, 0};
  c.qk_norm = true;
  auto model = tiny_model(c, DType::f32);
  Decoder decoder(model, 3, 40);
  const TinyData data = tiny_data({5, 11, 1}, c.vocab_size);
  std::vector<std::vector<int32_t>> sequences = data.tokens;
  std::vector<DecodeRow> rows;
  for (int s = 0; s < 3; ++s) rows.push_back({s, sequences[s], Sampling()});
  for (int step = 0; step < 12; ++step) {
    const auto sampled = decoder.append(rows);
    rows.clear();
    for (int s = 0; s < 3; ++s) {
      const auto& tokens = sequences[s];
      const auto logits = all_logits(*model, tokens.data(), int32_t(tokens.size()));
      const size_t vocab = size_t(c.vocab_size);
      CHECK(sampled[s].token == best_of(logits, tokens.size() - 1, vocab));
      double sum = 0;
      for (size_t i = 0; i < vocab; ++i)
        sum += std::exp(double(logits[(tokens.size() - 1) * vocab + i]));
      CHECK_NEAR(sampled[s].log_prob,
                 logits[(tokens.size() - 1) * vocab + sampled[s].token] - std::log(sum),
                 1e-4);
      sequences[s].push_back(sampled[s].token);
      rows.push_back({s, {sampled[s].token}, Sampling()});
    }
  }
}

TEST(a_long_prompt_goes_through_in_pieces) {
  auto model = tiny_model(tiny_config(), DType::f32);
  const TinyData data = tiny_data({1201}, model->config.vocab_size);
  Decoder decoder(model, 2, 1300);
  const auto sampled = decoder.append({{1, data.tokens[0], Sampling()}});
  const auto logits = all_logits(*model, data.tokens[0].data(), 1201);
  CHECK(sampled[0].token == best_of(logits, 1200, size_t(model->config.vocab_size)));
}

TEST(bad_rows_are_refused_before_anything_is_appended) {
  auto model = tiny_model(tiny_config(), DType::f32);
  Decoder decoder(model, 2, 4);
  decoder.append({{0, {1, 2, 3}, Sampling()}});
  CHECK_THROWS_CODE(decoder.append({{0, {1, 2}, Sampling()}}), "INVALID_ARGUMENT");
  CHECK_THROWS_CODE(decoder.append({{2, {1}, Sampling()}}), "INVALID_ARGUMENT");
  CHECK_THROWS_CODE(decoder.append({{1, {37}, Sampling()}}), "INVALID_ARGUMENT");
  CHECK_THROWS_CODE(decoder.append({{1, {}, Sampling()}}), "INVALID_ARGUMENT");
  CHECK_THROWS_CODE(decoder.append({{1, {1}, Sampling()}, {1, {1}, Sampling()}}),
                    "INVALID_ARGUMENT");
  decoder.append({{0, {1}, Sampling()}});
  decoder.reset(0);
  decoder.append({{0, {1, 2, 3, 4}, Sampling()}});
}

TEST(sampling_follows_the_filtered_distribution) {
  // 20,000 draws: a frequency's standard deviation is below 0.0036; four of them allowed.
  const std::vector<float> logits = {1.0f, 2.0f, 0.5f, -1.0f, 2.0f};
  Rng rng(3);
  auto frequencies = [&](Sampling o, std::vector<int32_t> history = {}) {
    std::map<int32_t, double> f;
    for (int i = 0; i < 20000; ++i) {
      std::vector<float> copy = logits;
      o.random = rng.uniform_double();
      f[sample(copy.data(), 5, o, history).token] += 1.0 / 20000;
    }
    return f;
  };
  Sampling o;
  o.temperature = 0.7f;
  double sum = 0;
  for (float x : logits) sum += std::exp(x / 0.7);
  auto f = frequencies(o);
  for (int i = 0; i < 5; ++i) CHECK_NEAR(f[i], std::exp(logits[i] / 0.7) / sum, 0.015);
  o.top_k = 2;
  f = frequencies(o);
  CHECK(f.size() == 2);
  CHECK_NEAR(f[1], 0.5, 0.015);
  o.top_k = 0;
  o.temperature = 1;
  o.top_p = 0.5f;  // 2.0 and 2.0 carry 0.67 together, one of them 0.34
  f = frequencies(o);
  CHECK(f.size() == 2);
  o.top_p = 1;
  o.min_p = 0.3f;  // exp(1 - 2) = 0.37 stays, exp(0.5 - 2) = 0.22 goes
  f = frequencies(o);
  CHECK(f.size() == 3 && f.count(0) == 1);
  Sampling penalty;
  penalty.repetition_penalty = 3;
  std::vector<float> copy = logits;
  CHECK(sample(copy.data(), 5, penalty, {1, 4, 1}).token == 0);
  copy = logits;
  copy[2] = NAN;
  CHECK_THROWS_CODE(sample(copy.data(), 5, Sampling(), {}), "NOT_FINITE");
}
