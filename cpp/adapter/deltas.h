// What adapters change in a model's weights, on the host.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/model.h"
#include "tune/loreft.h"

namespace s2ft {

/// W[index, :] += delta (rows, delta [s, in]) or W[:, index] += delta (cols, [out, s]).
struct SliceDelta {
  std::string module;
  bool rows = true;
  std::vector<int32_t> index;
  std::vector<float> delta;
};

/// W += scale B A   a [r, in], b [out, r]. With magnitudes [out] (DoRA) every row of
/// V = W + scale B A takes that length instead; W is then the base's, whatever else is
/// fused, so that the order of fusion does not matter.
struct LoraDelta {
  std::string module;
  int64_t r = 0;
  std::vector<float> a, b;
  float scale = 1;
  std::vector<float> magnitudes;
};

/// W(place / in, place % in) += delta, place ascending
struct ElementDelta {
  std::string module;
  std::vector<int32_t> places;
  std::vector<float> delta;
};

/// LoReFT behind one layer.
struct LoreftDelta {
  struct Set {
    std::vector<float> rotation, source, bias;  // R [r, d], W [r, d], b [r]
  };
  int layer = 0;
  LoreftOptions options;  // no dropout
  std::vector<Set> sets;  // shared, or those of the prefix and the suffix
};

struct AdapterDeltas {
  std::vector<SliceDelta> slices;
  std::vector<ElementDelta> elements;
  std::vector<LoraDelta> loras;
  std::vector<LoreftDelta> lorefts;
};

}  // namespace s2ft
