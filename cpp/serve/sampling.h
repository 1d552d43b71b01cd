// From one row of logits to the next token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "backend/backend.h"

namespace s2ft {

struct Sampling {
  float temperature = 0;  // 0: greedy
  int top_k = 0;          // 0: no limit
  float top_p = 1, min_p = 0, repetition_penalty = 1;
  float frequency_penalty = 0, presence_penalty = 0;  // of generated tokens
  std::vector<std::pair<int32_t, float>> bias;        // added to these tokens' logits
  int top = 0;  // likeliest tokens reported beside the sampled one
};

struct TokenProbability {
  int32_t token;
  float log_prob;  // of the model itself, before bias, penalties, temperature and cuts
};

struct SampledToken : TokenProbability {
  std::vector<TokenProbability> top;  // most probable first
};

/// What was before: `tokens` of a sequence, of which those from `generated` on were
/// sampled.
struct History {
  const std::vector<int32_t>& tokens;
  size_t generated = 0;
};

/// What is done to a row's logits before a token is chosen: bias and penalties. Appended,
/// for distinct tokens of the vocabulary.
void add_changes(std::vector<LogitChange>& changes, int32_t row, int64_t vocab,
                 const Sampling& options, const History& history);

/// A row of logits as Backend::rank_logits tells of it.
struct RankedLogits {
  const float* values = nullptr;  // [count] the largest first
  const int32_t* tokens = nullptr;
  size_t count = 0;
  double mass = 0;
  /// All of the row, for a choice that goes on behind what is ranked.
  std::function<const float*()> whole;
};

/// How many logits a choice usually looks at.
int64_t ranks_needed(const Sampling& options, int64_t vocab);
/// Whether it looks at the sum over all of them.
bool needs_mass(const Sampling& options, int64_t vocab);

/// A token, by temperature, top-k, top-p and min-p as Hugging Face's filters do, from
/// logits that are changed already. Ties go to the lower token. `random` in [0, 1)
/// decides the draw.
int32_t choose(const RankedLogits& logits, int64_t vocab, const Sampling& options,
               double random);

/// Bias, the repetition penalty (over the distinct tokens of the history), OpenAI's
/// penalties, then choose(). `normalizer` is the log-sum-exp of the logits.
/// logits [vocabulary], overwritten
SampledToken sample(float* logits, int64_t vocab, float normalizer,
                    const Sampling& options, double random, const History& history);

}  // namespace s2ft
