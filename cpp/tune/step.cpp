// The tuner's steps: gradients over micro-batches, and the optimizer's move.
#include "core/rng.h"
#include "model/passes.h"
#include "tune/tuner.h"

namespace s2ft {

namespace {

// What a step repeats beside the passes, whose keys are hashes of their shapes.
constexpr uint64_t kZeroKey = 1, kUpdateKey = 2;

}  // namespace

void Tuner::repeat(uint64_t key, const std::function<void()>& body) {
  uint64_t state = serial_;
  model_->backend->repeat(splitmix64(state) ^ key, body);
}

void Tuner::zero_gradients() {
  repeat(kZeroKey, [this] {
    for (Parameter* p : parameters_) model_->backend->zero(p->gradient);
  });
}

void Tuner::micro_step(const Batch& batch, Mat losses, int micro, Share share,
                       float gradient_scale, const std::atomic<bool>* stop) {
  prepare_arena(
      training_request(batch.size(), int64_t(batch.targets.size()), batch.samples()));
  // Dropout does not depend on the number of ranks that divide a step.
  uint64_t state = uint64_t(step_) * 65536 + uint64_t(micro * share.size + share.rank);
  const uint64_t seed = splitmix64(state);
  for (Hook& hook : hooks_) hook.part->set_seed(seed);
  for (StreamHook& hook : stream_hooks_) hook.intervention->set_seed(seed);
  const Pass pass{*model_, batch, activations_, true, nullptr, nullptr, &cancel, stop};
  const auto there_and_back = [&] {
    forward(pass);
    loss_head(pass, gradient_scale);
    if (!batch.targets.empty()) backward(pass);
  };
  // New projections are made on the host.
  if (renewing()) {
    there_and_back();
  } else {
    repeat(shape_key(batch), there_and_back);
  }
  if (batch.targets.empty()) return;
  model_->backend->copy(losses, activations_.nll.col_range(0, losses.cols));
}

int64_t Tuner::count_prompts(const std::vector<Batch>& batches) {
  int64_t count = 0;
  for (const Batch& batch : batches)
    for (int32_t prompt : batch.prompts) count += prompt > 0;
  return count;
}

void Tuner::require_work(int64_t tokens, int64_t prompts) const {
  if (tokens == 0)
    throw Error("INVALID_ARGUMENT",
                "[step] the batch has no trained token: every label is -100");
  if (kind_ == MethodSpec::Kind::loreft && prompts == 0)
    throw Error("INVALID_ARGUMENT",
                "[loreft] no sample has a prompt, and only prompts are changed: expected "
                "labels of -100 at the start of a sample");
}

std::vector<Batch> Tuner::pack_all(
    const std::vector<std::vector<Sample>>& micro_batches) const {
  std::vector<Batch> batches;
  for (const std::vector<Sample>& samples : micro_batches)
    batches.push_back(pack(samples, model_->config.vocab_size));
  return batches;
}

int64_t Tuner::accumulate(const std::vector<std::vector<Sample>>& micro_batches,
                          const std::atomic<bool>* stop) {
  std::vector<Batch> batches = pack_all(micro_batches);
  int64_t tokens = 0;
  for (const Batch& batch : batches) tokens += int64_t(batch.targets.size());
  require_work(tokens, count_prompts(batches));
  cancel = false;
  zero_gradients();
  run(std::move(batches), float(1.0 / double(tokens)), {}, stop);
  return tokens;
}

void Tuner::run(std::vector<Batch> batches, float gradient_scale, Share share,
                const std::atomic<bool>* stop) {
  numbers_.expect(*model_->backend, std::move(batches));
  for (size_t i = 0; i < numbers_.batches().size(); ++i) {
    // The step's first micro-batch, which makes GaLore's projections, is rank 0's.
    if (i == 0 && share.rank > 0 && renewing()) share_projections();
    micro_step(numbers_.batches()[i], numbers_.losses(i), int(i), share, gradient_scale,
               stop);
    if (i == 0 && share.rank == 0 && share.size > 1 && renewing()) share_projections();
  }
  for (StreamHook& hook : stream_hooks_)
    hook.intervention->finish_gradients(*model_->backend);
}

void Tuner::finish(StepResult& result) {
  const double sum = numbers_.read(*model_->backend);
  if (!ranks_) result.loss = sum / double(result.tokens);
}

StepResult Tuner::step(const std::vector<std::vector<Sample>>& micro_batches,
                       double learning_rate, const std::atomic<bool>* stop,
                       int64_t expected_tokens) {
  require_choice();
  attach();
  if (kind_ == MethodSpec::Kind::lisa) enter_period(step_ / lisa_.interval);
  if (renewing())
    for (Hook& hook : hooks_) static_cast<GalorePart&>(*hook.part).renew(step_);
  Backend& backend = *model_->backend;
  StepResult result = queue_gradients(micro_batches, stop, expected_tokens);
  std::vector<Mat> gradients;
  for (Parameter* p : parameters_) gradients.push_back(p->gradient);
  const auto wait = [&] {
    finish(result);
    result.grad_norm = numbers_.gradient_norm();
  };
  // Updates look at the numbers themselves. What comes behind some methods' updates does
  // not, and must not happen to weights that were left as they are.
  const bool looks_first =
      kind_ == MethodSpec::Kind::galore || kind_ == MethodSpec::Kind::loreft;
  std::vector<AdamW> updates;
  for (Parameter* p : parameters_) {
    AdamW update;
    update.weight = p->weight;
    update.master = p->master;
    update.gradient = p->gradient;
    update.first = p->first;
    update.second = p->second;
    update.learning_rate = learning_rate;
    update.beta1 = optimizer_.beta1;
    update.beta2 = optimizer_.beta2;
    update.epsilon = optimizer_.epsilon;
    update.weight_decay = p->decays ? optimizer_.weight_decay : 0;
    update.gradient_scale = 1;
    update.step = step_ + 1 - p->born;
    updates.push_back(update);
  }
  const auto move = [&] {
    backend.adamw(updates.data(), int(updates.size()),
                  numbers_.clipping(optimizer_.max_grad_norm));
    for (Hook& hook : hooks_)
      hook.part->stepped(backend, learning_rate, optimizer_.weight_decay);
    for (StreamHook& hook : stream_hooks_) hook.intervention->stepped(backend);
  };
  if (looks_first) {
    numbers_.sum_squares(backend, gradients);
    wait();
    move();
    backend.synchronize();
  } else {
    repeat(kUpdateKey, [&] {
      numbers_.sum_squares(backend, gradients);
      move();
    });
    wait();
  }
  ++step_;
  return result;
}

double Tuner::gradients(const std::vector<Sample>& samples,
                        const std::atomic<bool>* stop) {
  require_choice();
  StepResult result = queue_gradients({samples}, stop, 0);
  finish(result);
  return result.loss;
}

}  // namespace s2ft
