// Sampling where logits stay on the device: it changes and ranks them, and the host
// chooses among the first.
#pragma once

#include <vector>

#include "serve/sampling.h"

namespace s2ft {

/// A row of logits to choose from, and what was chosen.
struct SampledRow {
  const Sampling* options;
  History history;
  double random;
  SampledToken sampled{};
  bool finite = true;  // else the model answered with no numbers
};

/// Whether these options can be served so: no more likely tokens are reported than a
/// device ranks.
bool can_rank(const Sampling& options);

/// Chooses for rows [begin, begin + logits.rows) of `rows` by the rows of `logits`
/// (n, vocabulary, f32), which are changed. `scratch` grows as it has to.
void sample_ranked(Backend& backend, Buffer& scratch, Mat logits,
                   std::vector<SampledRow>& rows, int64_t begin);

}  // namespace s2ft
