// Rotary angles: cos and sin of position * frequency, f32, grown on demand.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "model/config.h"

namespace s2ft {

/// Inverse frequencies [head_dim / 2] for a sequence of `length` tokens; only dynamic
/// scaling depends on the length.
std::vector<float> rope_frequencies(const RopeConfig& rope, int head_dim, int64_t length);

class RopeTable {
 public:
  struct View {
    Mat cos, sin;  // (positions, head_dim / 2)
  };
  RopeTable(const ModelConfig& config, std::shared_ptr<Backend> backend)
      : rope_(config.rope), head_dim_(config.head_dim), backend_(std::move(backend)) {}

  /// Angles of positions 0 .. length - 1 in a sequence of `length` tokens.
  View view(int64_t length);
  /// True when sequences of these two lengths share their frequencies.
  bool same_frequencies(int64_t a, int64_t b) const;

 private:
  struct Table {
    Buffer buffer;
    int64_t positions = 0;
  };
  int64_t key(int64_t length) const;

  RopeConfig rope_;
  int head_dim_;
  std::shared_ptr<Backend> backend_;
  std::map<int64_t, Table> tables_;  // by key: 0, or the length of a stretched sequence
};

}  // namespace s2ft
