// Which heads and channels of a layer train, and the order that brings them together.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "model/model.h"

namespace s2ft {

enum Module { kQ, kK, kV, kO, kGate, kUp, kDown, kModules };
extern const char* const kModuleNames[kModules];  // q, k, v, o, gate, up, down

/// Selected units of each module: heads for q, k, v, o; channels for gate, up, down.
using LayerSelection = std::array<std::vector<int32_t>, kModules>;
using LayerCounts = std::array<int32_t, kModules>;

/// Throws INVALID_ARGUMENT naming layer, module and unit for a unit out of range or given
/// twice. Sorts each list.
void check_selection(const ModelConfig& config, LayerSelection& selection, int layer);

/// Number of units a module selects from.
int64_t unit_count(const ModelConfig& config, Module module);

/// Places [begin, begin + count) after the reordering, in units.
struct UnitRange {
  int32_t begin = 0, count = 0;
};

/// A co-permutation of one layer: order[i] is the original unit now at place i. Every
/// module's selected units are one range: only-producer | both | only-consumer | rest.
struct CoPermutation {
  std::vector<int32_t> heads, kv_heads, channels;
  std::array<UnitRange, kModules> range;
};

/// Rows or columns that one of a module's units takes.
int64_t unit_size(const ModelConfig& config, Module module);
/// Original rows or columns of a module's selected units, in the order of the places.
std::vector<int32_t> selected_elements(const ModelConfig& config, const CoPermutation& p,
                                       Module module);

/// Throws INVALID_ARGUMENT when three explicit channel sets overlap so that no order
/// makes each of them contiguous.
CoPermutation co_permutation(const ModelConfig& config, const LayerSelection& selection,
                             int layer);

/// Reorders the layer's weights, biases and kv map from base order to `p`.
void apply(Model& model, int layer, const CoPermutation& p);
/// Back to base order, bit for bit.
void undo(Model& model, int layer);

}  // namespace s2ft
