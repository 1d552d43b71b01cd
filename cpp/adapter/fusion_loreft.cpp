// LoReFT adapters of a fusion: hooked in behind their layers, weights untouched.
#include <algorithm>

#include "adapter/fusion.h"
#include "core/error.h"

namespace s2ft {

Fusion::~Fusion() {
  for (const StreamHook& hook : stream_hooks_)
    model_->layers[size_t(hook.layer)].intervention = nullptr;
}

void Fusion::check_lorefts(const std::vector<LoreftDelta>& lorefts,
                           const std::vector<bool>& out) const {
  const int64_t d = model_->config.hidden_size;
  std::vector<int> seen;
  for (const LoreftDelta& l : lorefts) {
    const std::string where = "[fuse] layer " + std::to_string(l.layer) + ": ";
    const bool twice = std::find(seen.begin(), seen.end(), l.layer) != seen.end();
    if (l.layer < 0 || l.layer >= model_->config.layers || twice)
      throw Error("ADAPTER_MISMATCH", where + "expected distinct layers below " +
                                          std::to_string(model_->config.layers));
    seen.push_back(l.layer);
    const bool taken = std::any_of(
        stream_hooks_.begin(), stream_hooks_.end(), [&](const StreamHook& hook) {
          return hook.layer == l.layer && !leaves(hook.id, out);
        });
    if (taken)
      throw Error("UNSUPPORTED",
                  where + "expected one LoReFT adapter at a time, found one fused");
    const bool split = !l.options.shared && l.options.first > 0 && l.options.last > 0;
    bool fits = l.options.r >= 1 && l.options.r <= d && l.options.first >= 0 &&
                l.options.last >= 0 && l.options.first + l.options.last > 0 &&
                l.sets.size() == size_t(split ? 2 : 1);
    for (const LoreftDelta::Set& set : l.sets)
      fits = fits && set.rotation.size() == size_t(l.options.r * d) &&
             set.source.size() == size_t(l.options.r * d) &&
             set.bias.size() == size_t(l.options.r);
    if (!fits)
      throw Error("ADAPTER_MISMATCH", where + "expected R and W of [r, " +
                                          std::to_string(d) +
                                          "] and b of [r], found others for r " +
                                          std::to_string(l.options.r));
  }
}

std::vector<Fusion::StreamHook> Fusion::make_hooks(
    const std::string& id, const std::vector<LoreftDelta>& lorefts) const {
  Backend& backend = *model_->backend;
  std::vector<StreamHook> hooks;
  for (const LoreftDelta& l : lorefts) {
    auto loreft =
        std::make_unique<Loreft>(backend, model_->config.hidden_size, l.options);
    auto upload = [&](Mat to, const std::vector<float>& values) {
      backend.upload(to.data, values.data(), values.size() * sizeof(float));
    };
    for (size_t i = 0; i < l.sets.size(); ++i) {
      const Loreft::Set& set = loreft->sets()[i];
      upload(set.rotation, l.sets[i].rotation);
      upload(set.source, l.sets[i].source);
      upload(set.bias, l.sets[i].bias);
    }
    hooks.push_back({id, l.layer, std::move(loreft)});
  }
  backend.synchronize();
  return hooks;
}

void Fusion::replace_hooks(const std::vector<bool>& out, std::vector<StreamHook> in) {
  for (StreamHook& hook : stream_hooks_) {
    if (leaves(hook.id, out))
      model_->layers[size_t(hook.layer)].intervention = nullptr;
    else
      in.push_back(std::move(hook));
  }
  stream_hooks_ = std::move(in);
  for (const StreamHook& hook : stream_hooks_)
    model_->layers[size_t(hook.layer)].intervention = hook.intervention.get();
}

}  // namespace s2ft
