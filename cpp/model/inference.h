// Whole-sequence inference: logits and log-probabilities without gradients. A `cancel`
// flag that becomes true ends the call with CANCELLED.
#pragma once

#include "model/transformer.h"

namespace s2ft {

/// logits [length * vocabulary] of one sequence, all of it a prompt.
std::vector<float> all_logits(Model& model, const int32_t* tokens, int32_t length,
                              const std::atomic<bool>* cancel = nullptr);

/// For each sample, log p(token i + 1 | tokens up to i) at [i] where the label of i + 1
/// is not -100, else 0. Without labels every token counts. With `candidates`, one list a
/// sample, log p(candidate | all tokens) of each follows: answers that differ in their
/// last token share one pass. Throws INVALID_ARGUMENT for a candidate that is no token.
std::vector<std::vector<float>> score(
    Model& model, const std::vector<Sample>& samples,
    const std::vector<std::vector<int32_t>>& candidates = {},
    const std::atomic<bool>* cancel = nullptr);

}  // namespace s2ft
