// Which heads and channels train when they are not named: drawn at random, or ranked by a
// score (paper, section 3: selection strategies S2FT-R, -W, -A, -S and -G).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "tune/selection.h"

namespace s2ft {

/// Modules of a group share an index: one order of its units serves them all.
enum Group { kHeads, kKvHeads, kChannels, kGroups };  // q o | k v | gate up down
Group group_of(Module module);

/// How good a unit of a layer scores; a group that nothing trains of may be empty.
using UnitScores = std::array<std::vector<double>, kGroups>;

struct UnitChoice {
  enum class Strategy {
    random,
    weight,
    activation,
    weight_activation,
    gradient
  } strategy = Strategy::random;
  bool largest = true;              // else the smallest scores win; not of random
  uint64_t seed = 0;                // random
  std::vector<LayerCounts> counts;  // one a layer
  std::vector<LayerSelection>
      avoid;  // one a layer, or none: units that must not be taken

  bool needs_data() const {
    return strategy != Strategy::random && strategy != Strategy::weight;
  }
};

/// A layer's selection. Modules of a group take prefixes of one order, so their sets are
/// nested: a random order from (seed, layer), or, with `scores`, the order of scores,
/// where equal ones go by index. What one module of a group avoids none of them takes.
/// Throws INVALID_ARGUMENT when more units are asked for than there are or remain.
LayerSelection choose_units(const ModelConfig& config, const UnitChoice& choice,
                            const UnitScores* scores, int layer);

/// choose_units() at random, avoiding nothing.
LayerSelection select_random(const ModelConfig& config, const LayerCounts& counts,
                             uint64_t seed, int layer);

}  // namespace s2ft
