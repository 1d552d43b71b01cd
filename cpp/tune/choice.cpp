#include "tune/choice.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/rng.h"

namespace s2ft {

Group group_of(Module module) {
  if (module == kQ || module == kO) return kHeads;
  return module == kK || module == kV ? kKvHeads : kChannels;
}

namespace {

std::vector<int32_t> random_order(size_t units, uint64_t seed, int layer, int group) {
  std::vector<int32_t> order(units);
  std::iota(order.begin(), order.end(), 0);
  Rng rng(seed, uint64_t(layer) * kGroups + group);
  for (size_t i = order.size(); i > 1; --i)
    std::swap(order[i - 1], order[rng.below(uint32_t(i))]);
  return order;
}

std::vector<int32_t> order_of(const std::vector<double>& scores, bool largest) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return largest ? scores[a] > scores[b] : scores[a] < scores[b];
  });
  return order;
}

/// Without the units that `selection` has of the group. Throws INVALID_ARGUMENT for a
/// unit that does not exist.
void leave_out(std::vector<int32_t>& order, LayerSelection selection, int group,
               const ModelConfig& config, int layer) {
  check_selection(config, selection, layer);
  std::vector<bool> taken(order.size(), false);
  for (int m = 0; m < kModules; ++m)
    if (group_of(Module(m)) == group)
      for (int32_t unit : selection[m]) taken[unit] = true;
  order.erase(
      std::remove_if(order.begin(), order.end(), [&](int32_t u) { return taken[u]; }),
      order.end());
}

}  // namespace

LayerSelection choose_units(const ModelConfig& config, const UnitChoice& choice,
                            const UnitScores* scores, int layer) {
  const LayerCounts& counts = choice.counts[layer];
  std::array<std::vector<int32_t>, kGroups> orders;
  LayerSelection selection;
  for (int m = 0; m < kModules; ++m) {
    if (counts[m] == 0) continue;
    const int group = group_of(Module(m));
    const size_t units = size_t(unit_count(config, Module(m)));
    std::vector<int32_t>& order = orders[group];
    if (order.empty()) {
      order = scores ? order_of((*scores)[group], choice.largest)
                     : random_order(units, choice.seed, layer, group);
      if (!choice.avoid.empty())
        leave_out(order, choice.avoid[layer], group, config, layer);
    }
    if (counts[m] < 0 || counts[m] > int32_t(order.size())) {
      const std::string left = order.size() == units ? "" : " that are not avoided";
      throw Error("INVALID_ARGUMENT", "[s2ft] layer " + std::to_string(layer) + ", " +
                                          kModuleNames[m] + ": expected 0 to " +
                                          std::to_string(order.size()) + " units" + left +
                                          ", found " + std::to_string(counts[m]));
    }
    selection[m].assign(order.begin(), order.begin() + counts[m]);
    std::sort(selection[m].begin(), selection[m].end());
  }
  return selection;
}

LayerSelection select_random(const ModelConfig& config, const LayerCounts& counts,
                             uint64_t seed, int layer) {
  UnitChoice choice;
  choice.seed = seed;
  choice.counts.assign(size_t(layer) + 1, counts);
  return choose_units(config, choice, nullptr, layer);
}

}  // namespace s2ft
