// Sampling follows the filtered distribution and tells the model's own probabilities.
#include "serve/sampling.h"

#include <cmath>
#include <map>

#include "core/rng.h"
#include "test/check.h"

using namespace s2ft;
using namespace s2ft::test;

namespace {

const std::vector<float> kLogits = {1.0f, 2.0f, 0.5f, -1.0f, 2.0f};

float normalizer() {
  double sum = 0;
  for (float x : kLogits) sum += std::exp(double(x));
  return float(std::log(sum));
}

SampledToken take(const Sampling& o, double random = 0,
                  const std::vector<int32_t>& history = {}, size_t generated = 0) {
  std::vector<float> copy = kLogits;
  return sample(copy.data(), 5, normalizer(), o, random, {history, generated});
}

// 20,000 draws: a frequency's standard deviation is below 0.0036; four of them allowed.
std::map<int32_t, double> frequencies(const Sampling& o) {
  Rng rng(3);
  std::map<int32_t, double> f;
  for (int i = 0; i < 20000; ++i) f[take(o, rng.uniform_double()).token] += 1.0 / 20000;
  return f;
}

}  // namespace

TEST(temperature_scales_the_logits) {
  Sampling o;
  o.temperature = 0.7f;
  double sum = 0;
  for (float x : kLogits) sum += std::exp(x / 0.7);
  auto f = frequencies(o);
  for (int i = 0; i < 5; ++i) CHECK_NEAR(f[i], std::exp(kLogits[i] / 0.7) / sum, 0.015);
}

TEST(top_k_top_p_and_min_p_cut_the_tail) {
  Sampling o;
  o.temperature = 0.7f;
  o.top_k = 2;
  auto f = frequencies(o);
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
}

TEST(the_repetition_penalty_counts_prompt_and_generated_tokens_once) {
  Sampling o;
  o.repetition_penalty = 3;
  CHECK(take(o, 0, {1, 4, 1}).token == 0);
  // A negative logit is multiplied, not divided: token 3 falls further.
  o.repetition_penalty = 100;
  CHECK(take(o, 0, {0, 1, 2, 3, 4}).token == 1);
}

TEST(openai_penalties_count_generated_tokens_only) {
  Sampling o;
  o.frequency_penalty = 0.6f;
  // 2.0 - 0.6 * 2 = 0.8 < 1.0, and 4 was generated once: 2.0 - 0.6 = 1.4.
  CHECK(take(o, 0, {0, 1, 1, 4}, 1).token == 4);
  CHECK(take(o, 0, {1, 1, 4}, 3).token == 1);
  o = {};
  o.presence_penalty = 1.5f;
  CHECK(take(o, 0, {1, 1, 4}, 0).token == 0);
}

TEST(bias_moves_tokens_and_reported_probabilities_stay_the_models_own) {
  Sampling o;
  o.bias = {{3, 10.0f}, {1, -100.0f}};
  o.top = 3;
  const SampledToken found = take(o);
  CHECK(found.token == 3);
  CHECK_NEAR(found.log_prob, kLogits[3] - normalizer(), 1e-6);
  CHECK(found.top.size() == 3);
  // Ties in order of the token.
  CHECK(found.top[0].token == 1 && found.top[1].token == 4 && found.top[2].token == 0);
  CHECK_NEAR(found.top[0].log_prob, 2 - normalizer(), 1e-6);
  o.top = 20;
  CHECK(take(o).top.size() == 5);
}
