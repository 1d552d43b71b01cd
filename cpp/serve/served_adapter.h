// An adapter held ready beside a model's weights, which it leaves alone: a batch adds
// what each of its rows' adapters make to every linear layer's output.
#pragma once

#include <unordered_map>

#include "adapter/deltas.h"

namespace s2ft {

class ServedAdapter {
 public:
  /// Throws ADAPTER_MISMATCH as fusing does; UNSUPPORTED, naming the way that remains,
  /// for adapters that are no sum beside a product (DoRA, LoReFT, single elements).
  ServedAdapter(Model& model, const AdapterDeltas& deltas);

  /// On the device.
  size_t bytes() const { return storage_.bytes(); }

  /// What it adds to this layer's output for rows [begin, begin + count); k is 0 where it
  /// has no part in it.
  AdapterRows rows(const Linear& linear, int64_t begin, int64_t count) const;

 private:
  struct Part {
    int32_t *gather = nullptr, *scatter = nullptr;  // as in AdapterRows
    Mat a, b;
  };
  std::unordered_map<const Linear*, Part> parts_;
  Buffer storage_;
};

}  // namespace s2ft
