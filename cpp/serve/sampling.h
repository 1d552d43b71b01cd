// From one row of logits to the next token.
#pragma once

#include <cstdint>
#include <vector>

namespace s2ft {

struct Sampling {
  float temperature = 0;  // 0: greedy
  int top_k = 0;          // 0: no limit
  float top_p = 1, min_p = 0, repetition_penalty = 1;
  double random = 0;  // uniform in [0, 1), decides the draw
};

struct SampledToken {
  int32_t token;
  float log_prob;  // of the model itself, before penalty, temperature and cuts
};

/// Filters apply in Hugging Face's order: repetition penalty (over the distinct tokens of
/// `history`), temperature, top-k, top-p, min-p. Ties go to the lower token. Throws
/// NOT_FINITE when a logit is not a number.   logits [vocabulary], overwritten
SampledToken sample(float* logits, int64_t vocab, const Sampling& options,
                    const std::vector<int32_t>& history);

}  // namespace s2ft
