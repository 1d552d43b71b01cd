#include "tune/selection.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace s2ft {

const char* const kModuleNames[kModules] = {"q", "k", "v", "o", "gate", "up", "down"};

int64_t unit_count(const ModelConfig& config, Module module) {
  if (module == kQ || module == kO) return config.heads;
  if (module == kK || module == kV) return config.kv_heads;
  return config.intermediate_size;
}

int64_t unit_size(const ModelConfig& config, Module module) {
  return module >= kGate ? 1 : config.head_dim;
}

std::vector<int32_t> selected_elements(const ModelConfig& config, const CoPermutation& p,
                                       Module module) {
  const int64_t unit = unit_size(config, module);
  const bool kv = module == kK || module == kV;
  const std::vector<int32_t>& order = module >= kGate ? p.channels
                                      : kv            ? p.kv_heads
                                                      : p.heads;
  const UnitRange range = p.range[module];
  std::vector<int32_t> index;
  for (int64_t u = range.begin; u < range.begin + range.count; ++u)
    for (int64_t j = 0; j < unit; ++j) index.push_back(int32_t(order[u] * unit + j));
  return index;
}

void check_selection(const ModelConfig& config, LayerSelection& selection, int layer) {
  for (int m = 0; m < kModules; ++m) {
    std::vector<int32_t>& units = selection[m];
    std::sort(units.begin(), units.end());
    const int64_t n = unit_count(config, Module(m));
    for (size_t i = 0; i < units.size(); ++i) {
      const bool twice = i > 0 && units[i] == units[i - 1];
      if (units[i] >= 0 && units[i] < n && !twice) continue;
      throw Error("INVALID_ARGUMENT",
                  "[s2ft] layer " + std::to_string(layer) + ", " + kModuleNames[m] +
                      ": expected distinct units in [0, " + std::to_string(n) +
                      "), found " + std::to_string(units[i]) + (twice ? " twice" : ""));
    }
  }
}

namespace {

/// Orders `n` units so that each of up to three sets is contiguous: units fall into
/// classes by which sets hold them, and classes are tried in every order, the natural one
/// (first set only, shared, last set only) first.
bool order_units(int64_t n, const std::vector<const std::vector<int32_t>*>& sets,
                 std::vector<int32_t>& order, std::vector<UnitRange>& ranges) {
  std::vector<uint8_t> mask(n, 0);
  for (size_t s = 0; s < sets.size(); ++s)
    for (int32_t unit : *sets[s]) mask[unit] |= uint8_t(1u << s);
  std::vector<int> classes;
  for (int c : {1, 3, 5, 7, 2, 6, 4})
    if (std::find(mask.begin(), mask.end(), c) != mask.end()) classes.push_back(c);
  std::vector<size_t> trial(classes.size());
  std::iota(trial.begin(), trial.end(), 0);
  do {
    bool contiguous = true;
    for (size_t s = 0; s < sets.size() && contiguous; ++s) {
      int runs = 0;
      bool inside = false;
      for (size_t i : trial) {
        const bool in = classes[i] >> s & 1;
        runs += in && !inside;
        inside = in;
      }
      contiguous = runs <= 1;
    }
    if (!contiguous) continue;
    order.clear();
    ranges.assign(sets.size(), UnitRange{});
    auto append = [&](int c) {
      for (int64_t u = 0; u < n; ++u) {
        if (mask[u] != c) continue;
        for (size_t s = 0; s < sets.size(); ++s) {
          if (!(c >> s & 1)) continue;
          if (ranges[s].count++ == 0) ranges[s].begin = int32_t(order.size());
        }
        order.push_back(int32_t(u));
      }
    };
    for (size_t i : trial) append(classes[i]);
    append(0);
    return true;
  } while (std::next_permutation(trial.begin(), trial.end()));
  return false;
}

}  // namespace

CoPermutation co_permutation(const ModelConfig& config, const LayerSelection& selection,
                             int layer) {
  CoPermutation p;
  auto group = [&](std::vector<int32_t>& order, std::vector<Module> modules) {
    std::vector<const std::vector<int32_t>*> sets;
    for (Module m : modules) sets.push_back(&selection[m]);
    std::vector<UnitRange> ranges;
    if (!order_units(unit_count(config, modules[0]), sets, order, ranges)) {
      throw Error("INVALID_ARGUMENT",
                  "[s2ft] layer " + std::to_string(layer) +
                      ": expected channel sets of gate, up and down that one order makes "
                      "contiguous (e.g. equal or nested), found three that overlap in a "
                      "ring");
    }
    for (size_t i = 0; i < modules.size(); ++i) p.range[modules[i]] = ranges[i];
  };
  group(p.heads, {kQ, kO});
  group(p.kv_heads, {kK, kV});
  group(p.channels, {kGate, kUp, kDown});
  return p;
}

namespace {

std::vector<int32_t> expand(const std::vector<int32_t>& order, int unit) {
  std::vector<int32_t> out(order.size() * unit);
  for (size_t i = 0; i < order.size(); ++i)
    for (int u = 0; u < unit; ++u) out[i * unit + u] = order[i] * unit + u;
  return out;
}

std::vector<int32_t> inverse(const std::vector<int32_t>& order) {
  std::vector<int32_t> out(order.size());
  for (size_t i = 0; i < order.size(); ++i) out[order[i]] = int32_t(i);
  return out;
}

bool is_identity(const std::vector<int32_t>& order) {
  for (size_t i = 0; i < order.size(); ++i)
    if (order[i] != int32_t(i)) return false;
  return true;
}

/// Moves unit order[i] of the present layout to place i.
void reorder(Model& model, Layer& l, const std::vector<int32_t>& heads,
             const std::vector<int32_t>& kv_heads, const std::vector<int32_t>& channels) {
  Backend& backend = *model.backend;
  auto rows = [&](Linear& linear, const std::vector<int32_t>& order) {
    backend.permute_rows(linear.weight, order.data());
    if (linear.bias) backend.permute_cols(linear.bias, order.data());
  };
  const int hd = model.config.head_dim;
  if (!is_identity(heads)) {
    const std::vector<int32_t> order = expand(heads, hd);
    rows(l.q, order);
    backend.permute_cols(l.o.weight, order.data());
  }
  if (!is_identity(kv_heads)) {
    const std::vector<int32_t> order = expand(kv_heads, hd);
    rows(l.k, order);
    rows(l.v, order);
  }
  if (!is_identity(channels)) {
    rows(l.gate, channels);
    rows(l.up, channels);
    backend.permute_cols(l.down.weight, channels.data());
  }
}

void map_kv_heads(Model& model, Layer& l) {
  const int group = model.config.heads / model.config.kv_heads;
  const std::vector<int32_t> kv_place = inverse(l.kv_order);
  for (int i = 0; i < model.config.heads; ++i) {
    const int head = l.head_order.empty() ? i : l.head_order[i];
    l.kv_head_of[i] = l.kv_order.empty() ? head / group : kv_place[head / group];
  }
}

}  // namespace

void apply(Model& model, int layer, const CoPermutation& p) {
  Layer& l = model.layers[layer];
  reorder(model, l, p.heads, p.kv_heads, p.channels);
  l.head_order = p.heads;
  l.kv_order = p.kv_heads;
  l.channel_order = p.channels;
  map_kv_heads(model, l);
}

void undo(Model& model, int layer) {
  Layer& l = model.layers[layer];
  if (l.head_order.empty()) return;
  reorder(model, l, inverse(l.head_order), inverse(l.kv_order), inverse(l.channel_order));
  l.head_order.clear();
  l.kv_order.clear();
  l.channel_order.clear();
  map_kv_heads(model, l);
}

}  // namespace s2ft
