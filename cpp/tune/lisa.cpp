#include "tune/lisa.h"

#include <algorithm>
#include <numeric>

#include "core/rng.h"
#include "tune/tuner.h"

namespace s2ft {

std::vector<int> sample_layers(const LisaOptions& options, int all_layers,
                               int64_t period) {
  std::vector<int> layers(static_cast<size_t>(all_layers));
  std::iota(layers.begin(), layers.end(), 0);
  Rng rng(options.seed, uint64_t(period) + 1);
  rng.shuffle(layers.data(), layers.size());
  layers.resize(size_t(options.layers));
  std::sort(layers.begin(), layers.end());
  return layers;
}

void Tuner::build_lisa(const LisaOptions& options) {
  const int all = model_->config.layers;
  if (options.layers < 1 || options.layers > all)
    throw Error("INVALID_ARGUMENT", "[lisa] layers: expected 1 to " +
                                        std::to_string(all) + ", found " +
                                        std::to_string(options.layers));
  if (options.interval < 1)
    throw Error("INVALID_ARGUMENT", "[lisa] interval: expected at least 1, found " +
                                        std::to_string(options.interval));
  lisa_ = options;
  train_weight(model_->embedding, "model.embed_tokens", true);
  train_weight(model_->final_norm, "model.norm", false);
  if (!model_->config.tie_word_embeddings) train_weight(model_->head, "lm_head", true);
  always_trained_ = parameters_.size();
  enter_period(0);
}

void Tuner::enter_period(int64_t period) {
  if (period == period_) return;
  // The layers' state goes before that of others is allocated.
  unhook_parts();
  hooks_.clear();
  trained_.resize(always_trained_);
  parameters_.resize(always_trained_);
  period_ = period;
  live_layers_ = sample_layers(lisa_, model_->config.layers, period);
  for (int layer : live_layers_) train_layer(layer);
  for (size_t i = always_trained_; i < parameters_.size(); ++i)
    parameters_[i]->born = period * lisa_.interval;
  if (attached_) hook_parts();
}

std::vector<const TensorPlace*> Tuner::resting_weights() const {
  std::vector<const TensorPlace*> resting;
  if (kind_ != MethodSpec::Kind::lisa) return resting;
  for (const TensorPlace& tensor : model_->tensors) {
    const std::string prefix = "model.layers.";
    if (tensor.name.compare(0, prefix.size(), prefix) != 0) continue;
    const int layer = std::stoi(tensor.name.substr(prefix.size()));
    if (!std::binary_search(live_layers_.begin(), live_layers_.end(), layer))
      resting.push_back(&tensor);
  }
  return resting;
}

}  // namespace s2ft
