// Every change makes the weights of the modules it touches anew from the base bits that
// are kept, with all adapters added in an order of their own: several may touch one
// element.
#include "adapter/fusion.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "adapter/check.h"
#include "core/error.h"

namespace s2ft {

namespace {

/// A total order over finite adapters, whatever the order they came in.
bool before(const AdapterDeltas& a, const AdapterDeltas& b) {
  auto slice = [](const SliceDelta& x, const SliceDelta& y) {
    return std::tie(x.module, x.rows, x.index, x.delta) <
           std::tie(y.module, y.rows, y.index, y.delta);
  };
  auto element = [](const ElementDelta& x, const ElementDelta& y) {
    return std::tie(x.module, x.places, x.delta) < std::tie(y.module, y.places, y.delta);
  };
  auto lora = [](const LoraDelta& x, const LoraDelta& y) {
    return std::tie(x.module, x.r, x.scale, x.a, x.b, x.magnitudes) <
           std::tie(y.module, y.r, y.scale, y.a, y.b, y.magnitudes);
  };
  auto less = [](const auto& x, const auto& y, auto compare) {
    return std::lexicographical_compare(x.begin(), x.end(), y.begin(), y.end(), compare);
  };
  if (less(a.slices, b.slices, slice)) return true;
  if (less(b.slices, a.slices, slice)) return false;
  if (less(a.elements, b.elements, element)) return true;
  if (less(b.elements, a.elements, element)) return false;
  return less(a.loras, b.loras, lora);
}

/// Calls f(module, part) for every part of an adapter.
template <class F>
void each_part(const AdapterDeltas& adapter, F&& f) {
  for (const ElementDelta& e : adapter.elements) f(e.module, FusedWeight::Part(&e));
  for (const SliceDelta& s : adapter.slices) f(s.module, FusedWeight::Part(&s));
  for (const LoraDelta& l : adapter.loras) f(l.module, FusedWeight::Part(&l));
}

}  // namespace

void Fusion::require_free(const char* what) const {
  if (!model_->tuner) return;
  throw Error("BUSY", std::string(what) +
                          " a trainer holds the model's weights: dispose it first");
}

std::vector<bool> Fusion::find(const std::vector<std::string>& ids,
                               const char* what) const {
  std::vector<bool> found(adapters_.size());
  for (const std::string& id : ids) {
    const auto it = std::find_if(adapters_.begin(), adapters_.end(),
                                 [&](const Entry& entry) { return entry.first == id; });
    if (it == adapters_.end())
      throw Error("INVALID_ARGUMENT",
                  std::string(what) + " adapter " + id + " is not fused");
    found[size_t(it - adapters_.begin())] = true;
  }
  return found;
}

bool Fusion::leaves(const std::string& id, const std::vector<bool>& out) const {
  for (size_t i = 0; i < adapters_.size(); ++i)
    if (out[i] && adapters_[i].first == id) return true;
  return false;
}

void Fusion::change_weights(const std::vector<const AdapterDeltas*>& touching,
                            const std::vector<const AdapterDeltas*>& after) {
  std::map<std::string, std::vector<FusedWeight::Part>> parts;
  for (const AdapterDeltas* adapter : touching)
    each_part(*adapter, [&](const std::string& module, FusedWeight::Part) {
      parts.try_emplace(module);
    });
  for (const AdapterDeltas* adapter : after)
    each_part(*adapter, [&](const std::string& module, FusedWeight::Part part) {
      const auto it = parts.find(module);
      if (it != parts.end()) it->second.push_back(part);
    });
  // All memory is taken before anything changes.
  Backend& backend = *model_->backend;
  std::vector<FusedWeight::Plan> plans;
  for (const auto& [module, list] : parts) {
    const Mat weight = linear_of(*model_, module).weight;
    plans.push_back(weights_[module].plan(backend, weight, list));
  }
  size_t i = 0;
  for (const auto& [module, list] : parts) {
    const Mat weight = linear_of(*model_, module).weight;
    weights_[module].apply(backend, weight, std::move(plans[i++]));
    if (list.empty()) weights_.erase(module);
  }
}

void Fusion::change(const std::vector<bool>& out, Entry* in) {
  const bool quantized = model_->quantization != Quantization::none;
  std::vector<StreamHook> hooks;
  std::vector<Entry> entries;
  entries.reserve(adapters_.size() + 1);
  std::vector<const AdapterDeltas*> touching, after;
  for (size_t i = 0; i < adapters_.size(); ++i)
    (out[i] ? touching : after).push_back(&adapters_[i].second);
  if (in) {
    hooks = make_hooks(in->first, in->second.lorefts);
    in->second.lorefts.clear();
    touching.push_back(&in->second);
    after.push_back(&in->second);
  }
  // Rounding makes a sum depend on the order of its terms.
  std::sort(after.begin(), after.end(),
            [](const auto* a, const auto* b) { return before(*a, *b); });
  if (quantized)
    beside_.replace(*model_, after);
  else
    change_weights(touching, after);
  replace_hooks(out, std::move(hooks));
  for (size_t i = 0; i < adapters_.size(); ++i)
    if (!out[i]) entries.push_back(std::move(adapters_[i]));
  if (in) entries.push_back(std::move(*in));
  adapters_ = std::move(entries);
}

void Fusion::replace(const std::vector<std::string>& ids, const std::string& id,
                     AdapterDeltas adapter) {
  require_free("[fuse]");
  const std::vector<bool> out = find(ids, "[fuse]");
  for (size_t i = 0; i < adapters_.size(); ++i)
    if (!out[i] && adapters_[i].first == id)
      throw Error("INVALID_ARGUMENT", "[fuse] adapter " + id + " is fused already");
  check_deltas(*model_, adapter);
  check_lorefts(adapter.lorefts, out);
  if (model_->quantization != Quantization::none) Beside::check(adapter);
  Entry entry(id, std::move(adapter));
  change(out, &entry);
}

void Fusion::fuse(const std::string& id, AdapterDeltas adapter) {
  replace({}, id, std::move(adapter));
}

void Fusion::unfuse(const std::string& id) {
  require_free("[unfuse]");
  change(find({id}, "[unfuse]"), nullptr);
}

}  // namespace s2ft
