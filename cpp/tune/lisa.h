// LISA (layerwise importance sampled AdamW): a few layers train at a time, whole.
#pragma once

#include <cstdint>
#include <vector>

namespace s2ft {

struct LisaOptions {
  int layers = 2;         // that train at a time
  int64_t interval = 20;  // steps between samplings: one period
  uint64_t seed = 0;
};

/// The layers that train in a period, ascending: drawn uniformly, without replacement,
/// from (seed, period).
std::vector<int> sample_layers(const LisaOptions& options, int all_layers,
                               int64_t period);

}  // namespace s2ft
