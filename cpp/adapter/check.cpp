#include "adapter/check.h"

#include <algorithm>

#include "core/error.h"

namespace s2ft {

Linear& linear_of(Model& model, const std::string& module, const char* where) {
  Linear* linear = model.find_linear(module);
  if (linear) return *linear;
  throw Error("ADAPTER_MISMATCH",
              std::string(where) + " the model has no linear layer " + module);
}

void check_deltas(Model& model, const AdapterDeltas& adapter, const char* where) {
  auto size = [&](const std::string& module, const char* what, int64_t expected,
                  size_t found) {
    if (size_t(expected) == found) return;
    throw Error("ADAPTER_MISMATCH", std::string(where) + " " + module + ": expected " +
                                        std::to_string(expected) + " values of " + what +
                                        ", found " + std::to_string(found));
  };
  for (const SliceDelta& s : adapter.slices) {
    const Mat w = linear_of(model, s.module, where).weight;
    const int64_t n = s.rows ? w.rows : w.cols, other = s.rows ? w.cols : w.rows;
    size(s.module, "s2ft_delta", int64_t(s.index.size()) * other, s.delta.size());
    std::vector<int32_t> sorted = s.index;
    std::sort(sorted.begin(), sorted.end());
    for (size_t i = 0; i < sorted.size(); ++i) {
      const bool twice = i > 0 && sorted[i] == sorted[i - 1];
      if (sorted[i] >= 0 && sorted[i] < n && !twice) continue;
      throw Error("ADAPTER_MISMATCH",
                  std::string(where) + " " + s.module +
                      ": expected distinct indices in [0, " + std::to_string(n) +
                      "), found " + std::to_string(sorted[i]) + (twice ? " twice" : ""));
    }
  }
  for (const ElementDelta& e : adapter.elements) {
    const Mat w = linear_of(model, e.module, where).weight;
    size(e.module, "sparse_delta", int64_t(e.places.size()), e.delta.size());
    for (size_t i = 0; i < e.places.size(); ++i) {
      const bool above = i == 0 || e.places[i] > e.places[i - 1];
      if (above && e.places[i] >= 0 && e.places[i] < w.count()) continue;
      throw Error("ADAPTER_MISMATCH", std::string(where) + " " + e.module +
                                          ": expected ascending places in [0, " +
                                          std::to_string(w.count()) + "), found " +
                                          std::to_string(e.places[i]));
    }
  }
  for (const LoraDelta& l : adapter.loras) {
    const Mat w = linear_of(model, l.module, where).weight;
    size(l.module, "lora_A", l.r * w.cols, l.a.size());
    size(l.module, "lora_B", l.r * w.rows, l.b.size());
    if (!l.magnitudes.empty())
      size(l.module, "lora_magnitude_vector", w.rows, l.magnitudes.size());
  }
}

}  // namespace s2ft
