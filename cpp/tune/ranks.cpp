// The tuner's side of data parallelism: what leaves a rank are the gradients of what
// trains, as one buffer a step, with the sums that normalise them.
#include "tune/tuner.h"

namespace s2ft {

/// What ranks add up beside the gradients.
struct Tuner::Totals {
  double loss = 0, tokens = 0, inputs = 0, prompts = 0, stops = 0;
};

std::unique_ptr<DeviceGroup> join_devices(Backend& backend, Communicator& ranks) {
  auto* groups = dynamic_cast<DeviceGroups*>(&backend);
  const bool able = groups && groups->available();
  for (const std::string& rank : ranks.all_gather(able ? "1" : ""))
    if (rank.empty()) return nullptr;
  const std::string mine = ranks.rank() == 0 ? groups->name() : "";
  return groups->join(ranks.all_gather(mine)[0], ranks.rank(), ranks.size());
}

void Tuner::join(std::shared_ptr<Communicator> ranks,
                 std::unique_ptr<DeviceGroup> devices) {
  ranks_ = std::move(ranks);
  devices_ = std::move(devices);
}

int64_t Tuner::gradient_values() const {
  int64_t count = 0;
  for (const Parameter* p : parameters_) count += p->gradient.count();
  return count;
}

void Tuner::telling_ranks(const std::function<void()>& work) {
  try {
    work();
  } catch (const RankFailed&) {
    throw;
  } catch (const std::exception& e) {
    if (ranks_) ranks_->fail(e.what());
    throw;
  }
}

StepResult Tuner::queue_gradients(const std::vector<std::vector<Sample>>& micro_batches,
                                  const std::atomic<bool>* stop,
                                  int64_t expected_tokens) {
  StepResult result;
  if (ranks_) {
    // How many tokens the others have is known for certain with the sum only.
    const double expected = double(std::max<int64_t>(1, expected_tokens));
    Totals totals;
    telling_ranks([&] { totals = sum_over_ranks(micro_batches, 1 / expected, stop); });
    // From here on all ranks see the same and need not tell one another.
    require_work(int64_t(totals.tokens), int64_t(totals.prompts));
    result.loss = totals.loss / totals.tokens;
    result.tokens = int64_t(totals.tokens);
    result.inputs = int64_t(totals.inputs);
    result.stop_asked = totals.stops > 0;
    if (totals.tokens == expected) return result;
    for (Parameter* p : parameters_)
      model_->backend->scale(p->gradient, float(expected / totals.tokens));
    return result;
  }
  attach();
  result.tokens = accumulate(micro_batches, stop);
  for (const std::vector<Sample>& samples : micro_batches)
    for (const Sample& sample : samples) result.inputs += sample.length;
  result.stop_asked = stop_asked;
  return result;
}

Tuner::Totals Tuner::sum_over_ranks(const std::vector<std::vector<Sample>>& micro_batches,
                                    double gradient_scale,
                                    const std::atomic<bool>* stop) {
  attach();
  std::vector<Batch> batches = pack_all(micro_batches);
  const Share share = {ranks_->rank(), ranks_->size()};
  Totals totals;
  totals.prompts = double(count_prompts(batches));
  for (const Batch& batch : batches) totals.tokens += double(batch.targets.size());
  for (const std::vector<Sample>& samples : micro_batches)
    for (const Sample& sample : samples) totals.inputs += sample.length;
  if (renewing() && share.rank == 0 && (batches.empty() || batches[0].targets.empty()))
    throw Error("INVALID_ARGUMENT",
                "[galore] expected a trained token in rank 0's first micro-batch, from "
                "which the projections are made, found none");
  cancel = false;
  zero_gradients();
  if (batches.empty()) {
    // Parts take scratch of the arena when they step, too.
    prepare_arena(training_request(padded_tokens(1), 1, 1));
    if (renewing()) share_projections();
  }
  run(std::move(batches), float(gradient_scale), share, stop);
  totals.loss = numbers_.read(*model_->backend);
  totals.stops = stop_asked;
  sum_gradients(&totals.loss, sizeof totals / sizeof(double));
  return totals;
}

void Tuner::sum_gradients(double* totals, size_t count) {
  if (devices_) {
    // First what is small: when it has arrived, all ranks have come this far.
    ranks_->sum(nullptr, 0, totals, count);
    return sum_on_devices();
  }
  Backend& backend = *model_->backend;
  const size_t values = size_t(gradient_values());
  float* const buffer = ranks_->buffer(values);
  float* at = buffer;
  for (const Parameter* p : parameters_) {
    backend.download(at, p->gradient.data, size_t(p->gradient.count()) * sizeof(float));
    at += p->gradient.count();
  }
  ranks_->sum(buffer, values, totals, count);
  at = buffer;
  for (const Parameter* p : parameters_) {
    backend.upload(p->gradient.data, at, size_t(p->gradient.count()) * sizeof(float));
    at += p->gradient.count();
  }
}

void Tuner::sum_on_devices() {
  Backend& backend = *model_->backend;
  const int64_t values = gradient_values();
  const size_t bytes = size_t(values) * sizeof(float);
  if (summed_.bytes() < bytes) {
    summed_.reset();
    summed_ = backend.allocate(bytes);
  }
  const auto each = [&](auto body) {
    float* at = static_cast<float*>(summed_.data());
    for (const Parameter* p : parameters_) {
      const Mat g = p->gradient;
      body(mat(at, DType::f32, g.rows, g.cols), g);
      at += g.count();
    }
  };
  each([&](Mat part, Mat gradient) { backend.copy(part, gradient); });
  devices_->sum(static_cast<float*>(summed_.data()), size_t(values),
                [this] { ranks_->check(); });
  each([&](Mat part, Mat gradient) { backend.copy(gradient, part); });
}

void Tuner::share_projections() {
  Backend& backend = *model_->backend;
  for (Hook& hook : hooks_) {
    auto& part = static_cast<GalorePart&>(*hook.part);
    const Mat projection = part.projection();
    const size_t bytes = size_t(projection.count()) * sizeof(float);
    float* const buffer = ranks_->buffer(size_t(projection.count()));
    backend.synchronize();
    backend.download(buffer, projection.data, bytes);
    ranks_->broadcast(buffer, bytes, 0);
    backend.upload(projection.data, buffer, bytes);
    part.projection_loaded(backend);
  }
}

void Tuner::share_places() {
  std::vector<std::vector<int32_t>> places;
  for (const Parameter* p : parameters_) {
    places.push_back(p->index);
    ranks_->broadcast(places.back().data(), places.back().size() * sizeof(int32_t), 0);
  }
  telling_ranks([&] { set_places(places); });
}

}  // namespace s2ft
