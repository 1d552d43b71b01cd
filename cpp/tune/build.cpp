// What each method trains, as trainable parts and parameters of one model.
#include <algorithm>

#include "model/load.h"
#include "tune/dora_part.h"
#include "tune/scores.h"
#include "tune/tuner.h"

namespace s2ft {

void Tuner::adopt(Linear& linear, std::unique_ptr<TunedPart> part) {
  for (auto& parameter : part->parameters) parameters_.push_back(parameter.get());
  hooks_.push_back({&linear, std::move(part)});
}

std::vector<LayerSelection> Tuner::first_selection(const MethodSpec& method) {
  const Model& m = *model_;
  choice_ = method.choice;
  const bool named = !method.selection.empty();
  const size_t given = named ? method.selection.size() : choice_.counts.size();
  const size_t avoided = choice_.avoid.empty() ? given : choice_.avoid.size();
  for (size_t found : {given, avoided})
    if (int(found) != m.config.layers)
      throw Error("INVALID_ARGUMENT", "[s2ft] expected a selection for each of " +
                                          std::to_string(m.config.layers) +
                                          " layers, found " + std::to_string(found));
  if (named) return method.selection;
  choice_pending_ = choice_.needs_data();
  std::vector<LayerSelection> selection;
  for (int i = 0; i < m.config.layers; ++i) {
    UnitScores scores;
    const bool by_weight = choice_.strategy == UnitChoice::Strategy::weight;
    if (by_weight)
      scores = weight_scores(*m.backend, m.config, m.layers[i], choice_.counts[i]);
    selection.push_back(
        choose_units(m.config, choice_, by_weight ? &scores : nullptr, i));
  }
  return selection;
}

std::vector<CoPermutation> Tuner::permutations_for(
    std::vector<LayerSelection> selection) const {
  const ModelConfig& c = model_->config;
  std::vector<CoPermutation> permutations;
  for (int i = 0; i < c.layers; ++i) {
    check_selection(c, selection[i], i);
    permutations.push_back(co_permutation(c, selection[i], i));
  }
  return permutations;
}

void Tuner::build_s2ft(std::vector<CoPermutation> permutations) {
  Model& m = *model_;
  permutations_ = std::move(permutations);
  if (m.quantization != Quantization::none) return build_patches();
  for (int i = 0; i < m.config.layers; ++i) {
    const CoPermutation& p = permutations_[i];
    apply(m, i, p);
    Layer& l = m.layers[i];
    for (int k = 0; k < kModules; ++k) {
      const UnitRange range = p.range[k];
      if (!range.count) continue;
      const int64_t unit = unit_size(m.config, Module(k));
      const int64_t begin = range.begin * unit, count = range.count * unit;
      Linear& linear = *l.linears[k];
      std::unique_ptr<TunedPart> part;
      if (k == kO || k == kDown) {
        part = std::make_unique<ColsPart>(*m.backend, linear, begin, count);
      } else {
        part = std::make_unique<RowsPart>(*m.backend, linear, begin, count);
      }
      Parameter& parameter = *part->parameters[0];
      parameter.index = selected_elements(m.config, p, Module(k));
      const Mat w = parameter.weight;
      bases_.push_back(m.backend->allocate(size_t(w.count()) * dtype_size(w.dtype)));
      m.backend->copy(mat(bases_.back().data(), w.dtype, w.rows, w.cols), w);
      adopt(linear, std::move(part));
    }
  }
}

// The selection stays where it is: what is quantized in blocks along a row cannot be
// reordered.
void Tuner::build_patches() {
  Model& m = *model_;
  for (int i = 0; i < m.config.layers; ++i) {
    const CoPermutation& p = permutations_[i];
    for (int k = 0; k < kModules; ++k) {
      std::vector<int32_t> index = selected_elements(m.config, p, Module(k));
      if (index.empty()) continue;
      const bool rows = k != kO && k != kDown;
      Linear& linear = *m.layers[i].linears[k];
      const std::vector<char> base = checkpoint_slice(m, linear, rows, index);
      bases_.push_back(m.backend->allocate(base.size()));
      m.backend->upload(bases_.back().data(), base.data(), base.size());
      adopt(linear, std::make_unique<PatchPart>(*m.backend, linear, rows,
                                                std::move(index), base));
    }
  }
  permutations_.clear();
}

void Tuner::build_lora(const MethodSpec& method) {
  for (const LoraModule& module : method.lora) {
    if (module.options.r < 1)
      throw Error("INVALID_ARGUMENT", "[lora] " + module.name +
                                          ": expected r >= 1, found " +
                                          std::to_string(module.options.r));
    Linear& linear = untrained_linear(module.name);
    if (kind_ == MethodSpec::Kind::dora) {
      const bool residual = std::any_of(
          model_->layers.begin(), model_->layers.end(),
          [&](const Layer& l) { return &l.o == &linear || &l.down == &linear; });
      adopt(linear, std::make_unique<DoraPart>(*model_->backend, linear, module.options,
                                               residual));
    } else {
      adopt(linear, std::make_unique<LoraPart>(*model_->backend, linear, module.options));
    }
  }
}

void Tuner::build_loreft(const MethodSpec& method) {
  Model& m = *model_;
  int above = 0;
  for (int layer : method.layers) {
    if (layer < above || layer >= m.config.layers)
      throw Error("INVALID_ARGUMENT",
                  "[loreft] layers: expected ascending layers below " +
                      std::to_string(m.config.layers) + ", found " +
                      std::to_string(layer));
    above = layer + 1;
    if (m.layers[layer].intervention)
      throw Error("BUSY", "[loreft] a fused LoReFT adapter holds the model: unfuse it");
    auto intervention = std::make_unique<TrainedLoreft>(
        *m.backend, "model.layers." + std::to_string(layer), m.config.hidden_size,
        method.loreft);
    for (auto& parameter : intervention->parameters)
      parameters_.push_back(parameter.get());
    stream_hooks_.push_back({&m.layers[layer], std::move(intervention)});
  }
}

Linear& Tuner::untrained_linear(const std::string& name) {
  Linear* linear = model_->find_linear(name);
  if (!linear)
    throw Error("INVALID_ARGUMENT", "[trainer] the model has no linear layer " + name);
  for (const Hook& hook : hooks_)
    if (hook.linear == linear)
      throw Error("INVALID_ARGUMENT", "[trainer] module " + name + " is named twice");
  return *linear;
}

void Tuner::train_weight(Weight& weight, const std::string& name, bool decays) {
  trained_.push_back({&weight, std::make_unique<Parameter>(), Buffer()});
  Parameter& p = *trained_.back().parameter;
  p.name = p.module = name;
  p.kind = "all";
  p.weight = weight.value;
  p.decays = decays;
  trained_.back().state = allocate_optimizer_state(*model_->backend, p);
  parameters_.push_back(&p);
}

void Tuner::train_layer(int index) {
  Model& m = *model_;
  Layer& l = m.layers[index];
  const std::string base = "model.layers." + std::to_string(index) + ".";
  train_weight(l.attention_norm, base + "input_layernorm", false);
  for (Linear* linear : l.linears) {
    if (kind_ == MethodSpec::Kind::galore) {
      adopt(*linear, std::make_unique<GalorePart>(*m.backend, *linear, galore_));
    } else {
      adopt(*linear, std::make_unique<AllPart>(*m.backend, *linear));
    }
    if (linear == &l.v && m.config.qk_norm) {
      train_weight(l.q_norm, base + "self_attn.q_norm", false);
      train_weight(l.k_norm, base + "self_attn.k_norm", false);
    }
  }
  train_weight(l.mlp_norm, base + "post_attention_layernorm", false);
}

void Tuner::build_galore(const GaloreOptions& options) {
  if (options.r < 1 || options.interval < 1)
    throw Error("INVALID_ARGUMENT",
                "[galore] expected r and interval of at least 1, found " +
                    std::to_string(options.r) + " and " +
                    std::to_string(options.interval));
  galore_ = options;
  build_full();
}

void Tuner::build_full() {
  Model& m = *model_;
  train_weight(m.embedding, "model.embed_tokens", true);
  for (int i = 0; i < m.config.layers; ++i) train_layer(i);
  train_weight(m.final_norm, "model.norm", false);
  if (!m.config.tie_word_embeddings) train_weight(m.head, "lm_head", true);
}

}  // namespace s2ft
