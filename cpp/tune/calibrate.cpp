// The tuner's side of what is chosen by data: the units of S2FT and the masks of sparse
// fine-tuning, scored over calibration data before the first step.
#include <cmath>

#include "model/passes.h"
#include "tune/scores.h"
#include "tune/tuner.h"

namespace s2ft {

namespace {

/// Dense gradients of a few layers at a time are scored, for no more than this share of
/// the weights' bytes (a single layer's may be more).
constexpr size_t kGradientShare = 4;

/// Takes the probes out of the model when scoring ends, however it ends.
struct Probing {
  Model& model;
  std::vector<std::pair<Linear*, std::unique_ptr<TrainablePart>>> probes;

  explicit Probing(Model& m, const void* owner) : model(m) { model.tuner = owner; }
  ~Probing() {
    remove();
    model.tuner = nullptr;
  }
  template <class Probe>
  Probe& add(Linear& linear, std::unique_ptr<Probe> probe) {
    Probe& added = *probe;
    linear.part = probe.get();
    probes.emplace_back(&linear, std::move(probe));
    return added;
  }
  void remove() {
    for (auto& [linear, probe] : probes) linear->part = nullptr;
    probes.clear();
  }
};

size_t gradient_bytes(const Layer& layer, const LayerCounts& counts) {
  size_t bytes = 0;
  for (int m = 0; m < kModules; ++m)
    if (counts[m] > 0) bytes += size_t(layer.linears[m]->weight.count()) * sizeof(float);
  return bytes;
}

struct Chunk {
  int begin, end;
  size_t bytes;
};

/// Layers whose gradients are held at the same time.
std::vector<Chunk> chunks_of(const Model& model, const UnitChoice& choice) {
  const size_t most = model.bytes() / kGradientShare;
  std::vector<Chunk> chunks;
  for (int i = 0; i < model.config.layers; ++i) {
    const size_t bytes = gradient_bytes(model.layers[i], choice.counts[i]);
    if (bytes == 0) continue;
    if (chunks.empty() || chunks.back().bytes + bytes > most)
      chunks.push_back({i, i + 1, 0});
    chunks.back().end = i + 1;
    chunks.back().bytes += bytes;
  }
  return chunks;
}

void require_finite(const UnitScores& scores, int layer) {
  for (const std::vector<double>& group : scores)
    for (double x : group)
      if (!std::isfinite(x))
        throw Error("NOT_FINITE", "[s2ft] layer " + std::to_string(layer) +
                                      ": a score of the calibration data is " +
                                      std::to_string(x));
}

}  // namespace

size_t Tuner::calibration_bytes() {
  size_t bytes = 0;
  if (!choice_pending_) return bytes;
  if (kind_ == MethodSpec::Kind::sparse)
    for (size_t i = 0; i < hooks_.size(); ++i) bytes += sparse_part(i).score_bytes();
  if (kind_ == MethodSpec::Kind::s2ft &&
      choice_.strategy == UnitChoice::Strategy::gradient)
    for (const Chunk& chunk : chunks_of(*model_, choice_))
      bytes = std::max(bytes, chunk.bytes);
  return bytes;
}

void Tuner::require_choice() const {
  if (!choice_pending_) return;
  throw Error("INVALID_ARGUMENT",
              "[trainer] what trains is chosen by data: calibrate before training");
}

void Tuner::calibrate(const std::vector<std::vector<Sample>>& micro_batches,
                      const std::atomic<bool>* stop) {
  if (!choice_pending_) return;
  if (!ranks_) return choose_places(micro_batches, stop);
  if (ranks_->rank() == 0) telling_ranks([&] { choose_places(micro_batches, stop); });
  share_places();
}

void Tuner::choose_places(const std::vector<std::vector<Sample>>& micro_batches,
                          const std::atomic<bool>* stop) {
  if (kind_ == MethodSpec::Kind::sparse) {
    attach();
    calibrate_masks(micro_batches, stop);
  } else {
    const std::vector<UnitScores> scores = unit_scores(micro_batches, stop);
    std::vector<LayerSelection> selection;
    for (int i = 0; i < model_->config.layers; ++i)
      selection.push_back(choose_units(model_->config, choice_, &scores[i], i));
    set_selection(selection);
  }
  choice_pending_ = false;
}

std::vector<UnitScores> Tuner::unit_scores(
    const std::vector<std::vector<Sample>>& micro_batches,
    const std::atomic<bool>* stop) {
  attach();
  detach();
  const std::vector<UnitScores> scores =
      choice_.strategy == UnitChoice::Strategy::gradient
          ? gradient_scores(micro_batches, stop)
          : activation_scores(micro_batches, stop);
  for (size_t i = 0; i < scores.size(); ++i) require_finite(scores[i], int(i));
  return scores;
}

std::vector<UnitScores> Tuner::activation_scores(
    const std::vector<std::vector<Sample>>& micro_batches,
    const std::atomic<bool>* stop) {
  Model& m = *model_;
  Backend& backend = *m.backend;
  const ModelConfig& c = m.config;
  Probing probing(m, this);
  std::vector<ActivationProbe*> probes;
  for (Layer& layer : m.layers) {
    const int64_t head = c.head_dim, group = c.heads / c.kv_heads;
    probes.push_back(&probing.add(
        layer.o, std::make_unique<ActivationProbe>(
                     backend, c.q_size(), std::vector<int64_t>{head, group * head})));
    probes.push_back(&probing.add(
        layer.down, std::make_unique<ActivationProbe>(backend, c.intermediate_size,
                                                      std::vector<int64_t>{1})));
  }
  cancel = false;
  double tokens = 0;
  for (const std::vector<Sample>& samples : micro_batches) {
    const Batch batch = pack(samples, c.vocab_size);
    ActivationRequest request;
    request.tokens = batch.size();
    request.samples = batch.samples();
    prepare_arena(request);
    const int64_t rows = batch.begins[samples.size()];
    for (ActivationProbe* probe : probes) probe->rows = rows;
    forward({m, batch, activations_, false, nullptr, nullptr, &cancel, stop});
    tokens += double(rows);
  }
  std::vector<UnitScores> scores;
  for (int i = 0; i < c.layers; ++i) {
    scores.push_back({probes[2 * i]->sums(backend, 0), probes[2 * i]->sums(backend, 1),
                      probes[2 * i + 1]->sums(backend, 0)});
    for (std::vector<double>& units : scores.back())
      for (double& x : units) x /= tokens;
    if (choice_.strategy != UnitChoice::Strategy::weight_activation) continue;
    const UnitScores weights = weight_scores(backend, c, m.layers[i], choice_.counts[i]);
    for (int g = 0; g < kGroups; ++g)
      for (size_t u = 0; u < weights[g].size(); ++u) scores[i][g][u] *= weights[g][u];
  }
  return scores;
}

std::vector<UnitScores> Tuner::gradient_scores(
    const std::vector<std::vector<Sample>>& micro_batches,
    const std::atomic<bool>* stop) {
  Model& m = *model_;
  Probing probing(m, this);
  std::vector<UnitScores> scores(m.config.layers);
  for (const Chunk& chunk : chunks_of(m, choice_)) {
    struct Watched {
      int layer;
      Module module;
      GradientProbe* probe;
    };
    std::vector<Watched> watched;
    for (int i = chunk.begin; i < chunk.end; ++i)
      for (int k = 0; k < kModules; ++k) {
        if (choice_.counts[i][k] == 0) continue;
        Linear& linear = *m.layers[i].linears[k];
        auto probe = std::make_unique<GradientProbe>(*m.backend, linear);
        watched.push_back({i, Module(k), &probing.add(linear, std::move(probe))});
      }
    accumulate(micro_batches, stop);
    numbers_.read(*m.backend);  // throws where a loss is not finite
    for (const Watched& w : watched)
      add_squares(*m.backend, m.config, w.module, w.probe->gradient(), scores[w.layer]);
    probing.remove();
  }
  for (UnitScores& layer : scores) take_roots(layer);
  return scores;
}

void Tuner::set_selection(const std::vector<LayerSelection>& selection) {
  std::vector<CoPermutation> permutations = permutations_for(selection);
  detach();
  auto clear = [&] {
    hooks_.clear();
    parameters_.clear();
    bases_.clear();
    permutations_.clear();
  };
  clear();
  try {
    build_s2ft(std::move(permutations));
  } catch (...) {  // out of memory: there is nothing to train until this succeeds
    clear();
    restore_order();
    choice_pending_ = true;
    throw;
  }
  model_->tuner = this;
  hook_parts();
  refresh_parts();
  attached_ = true;
}

void Tuner::set_places(const std::vector<std::vector<int32_t>>& places) {
  const bool s2ft = kind_ == MethodSpec::Kind::s2ft;
  if ((!s2ft && kind_ != MethodSpec::Kind::sparse) || places.size() != parameters_.size())
    throw Error("SHAPE_MISMATCH", "[trainer] expected places for each of " +
                                      std::to_string(parameters_.size()) + " modules");
  attach();
  if (s2ft) {
    bool same = true;
    for (size_t i = 0; i < places.size(); ++i)
      same = same && places[i] == parameters_[i]->index;
    if (!same) set_selection(selection_of(places));
    for (size_t i = 0; i < places.size(); ++i)
      if (places[i] != parameters_[i]->index)
        throw Error("SHAPE_MISMATCH", "[s2ft] " + parameters_[i]->name +
                                          ": expected rows or columns in the order that "
                                          "co-permutation gives them");
  } else {
    for (size_t i = 0; i < places.size(); ++i)
      sparse_part(i).select(*model_->backend, places[i]);
  }
  choice_pending_ = false;
}

std::vector<LayerSelection> Tuner::selection_of(
    const std::vector<std::vector<int32_t>>& places) const {
  const ModelConfig& c = model_->config;
  std::vector<LayerSelection> selection(c.layers);
  size_t i = 0;
  for (int layer = 0; layer < c.layers; ++layer) {
    for (int m = 0; m < kModules; ++m) {
      if (i >= hooks_.size() || hooks_[i].linear != model_->layers[layer].linears[m])
        continue;
      const std::vector<int32_t>& given = places[i];
      const int32_t width = group_of(Module(m)) == kChannels ? 1 : c.head_dim;
      bool whole = given.size() == parameters_[i]->index.size();
      for (size_t j = 0; j < given.size() && whole; ++j)
        whole = given[j] >= 0 && given[j] % width == int32_t(j) % width &&
                given[j] / width == given[j - j % width] / width;
      if (!whole)
        throw Error("SHAPE_MISMATCH", "[s2ft] " + parameters_[i]->name + ": expected " +
                                          std::to_string(parameters_[i]->index.size()) +
                                          " rows or columns of whole units");
      for (size_t j = 0; j < given.size(); j += width)
        selection[layer][m].push_back(given[j] / width);
      ++i;
    }
  }
  return selection;
}

}  // namespace s2ft
