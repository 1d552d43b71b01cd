#include "tune/tuner.h"

#include <cmath>

#include "core/memory.h"
#include "core/rng.h"
#include "model/passes.h"

namespace s2ft {

namespace {

// What a step repeats beside the passes, whose keys are hashes of their shapes.
constexpr uint64_t kZeroKey = 1, kUpdateKey = 2;

std::atomic<uint64_t> tuners{0};

}  // namespace

Tuner::Tuner(std::shared_ptr<Model> model, const MethodSpec& method,
             const OptimizerSpec& optimizer, Recompute recompute)
    : serial_(++tuners),
      model_(std::move(model)),
      optimizer_(optimizer),
      recompute_(recompute),
      kind_(method.kind) {
  if (model_->tuner)
    throw Error("BUSY", "[trainer] the model already has a trainer: dispose it first");
  check_base(method);
  model_->tuner = this;
  try {
    if (kind_ == MethodSpec::Kind::s2ft)
      build_s2ft(permutations_for(first_selection(method)));
    if (kind_ == MethodSpec::Kind::lora || kind_ == MethodSpec::Kind::dora)
      build_lora(method);
    if (kind_ == MethodSpec::Kind::sparse) build_sparse(method);
    if (kind_ == MethodSpec::Kind::lisa) build_lisa(method.lisa);
    if (kind_ == MethodSpec::Kind::galore) build_galore(method.galore);
    if (kind_ == MethodSpec::Kind::loreft) build_loreft(method);
    if (kind_ == MethodSpec::Kind::full) build_full();
    if (parameters_.empty())
      throw Error("INVALID_ARGUMENT", "[trainer] the method selects nothing to train");
  } catch (...) {
    hooks_.clear();
    restore_order();
    model_->tuner = nullptr;
    throw;
  }
  hook_parts();
  refresh_parts();
  attached_ = true;
}

Tuner::~Tuner() {
  if (attached_) detach();
}

void Tuner::check_base(const MethodSpec& method) const {
  using Kind = MethodSpec::Kind;
  const bool beside = method.kind == Kind::s2ft || method.kind == Kind::lora ||
                      method.kind == Kind::dora || method.kind == Kind::loreft;
  if (beside || model_->quantization == Quantization::none) return;
  throw Error(
      "UNSUPPORTED",
      "[trainer] expected s2ft, lora, dora or loreft over a quantized model, whose "
      "weights cannot change: load it without quantization for other methods");
}

void Tuner::hook_parts() {
  for (Hook& hook : hooks_) {
    hook.linear->part = hook.part.get();
    hook.linear->quantized.patch = hook.part->patch();
  }
  for (StreamHook& hook : stream_hooks_)
    hook.layer->intervention = hook.intervention.get();
  for (Trained& t : trained_) t.weight->parameter = t.parameter.get();
  // A tied head adds to the embedding's gradient.
  if (changes_base() && model_->config.tie_word_embeddings)
    model_->head.parameter = model_->embedding.parameter;
}

void Tuner::unhook_parts() {
  for (Hook& hook : hooks_) {
    hook.linear->part = nullptr;
    hook.linear->quantized.patch = {};
  }
  for (StreamHook& hook : stream_hooks_) hook.layer->intervention = nullptr;
  for (Trained& t : trained_) t.weight->parameter = nullptr;
  model_->head.parameter = nullptr;
}

void Tuner::restore_order() {
  for (int i = 0; i < model_->config.layers; ++i) undo(*model_, i);
}

namespace {

/// Exchanges a strided view with a contiguous copy.
void swap(Backend& backend, Mat a, void* contiguous) {
  const size_t bytes = size_t(a.count()) * dtype_size(a.dtype);
  const Mat b = mat(contiguous, a.dtype, a.rows, a.cols);
  const Buffer temporary = backend.allocate(bytes);
  const Mat t = mat(temporary.data(), a.dtype, a.rows, a.cols);
  backend.copy(t, a);
  backend.copy(a, b);
  backend.copy(b, t);
  backend.synchronize();
}

}  // namespace

void Tuner::swap_slices() {
  if (!slices_in_place()) return;
  for (size_t i = 0; i < bases_.size(); ++i)
    swap(*model_->backend, parameters_[i]->weight, bases_[i].data());
}

void Tuner::detach() {
  if (!attached_) return;
  swap_slices();
  for (Hook& hook : hooks_) hook.part->take_out(*model_->backend);
  unhook_parts();
  restore_order();
  model_->tuner = nullptr;
  attached_ = false;
}

void Tuner::attach() {
  if (attached_) return;
  if (model_->tuner)
    throw Error("BUSY", "[trainer] the model has another trainer: dispose it first");
  model_->tuner = this;
  for (size_t i = 0; i < permutations_.size(); ++i)
    apply(*model_, int(i), permutations_[i]);
  swap_slices();
  hook_parts();
  refresh_parts();
  attached_ = true;
}

ActivationRequest Tuner::training_request(int64_t tokens, int64_t trained,
                                          int64_t samples) const {
  ActivationRequest request;
  request.tokens = tokens;
  request.trained = trained;
  request.samples = samples;
  request.training = true;
  request.recompute = recompute_;
  return request;
}

void Tuner::prepare_arena(const ActivationRequest& request) {
  Arena count;
  lay_out(*model_, request, count);
  if (count.peak() > arena_.bytes()) {
    arena_.reset();
    arena_ = model_->backend->allocate(count.peak());
  }
  Arena place(arena_.data());
  activations_ = lay_out(*model_, request, place);
}

MemoryPlan Tuner::plan(int64_t tokens, int64_t trained, int64_t samples) {
  Arena count;
  // One sequence more fills the batch up.
  lay_out(*model_, training_request(padded_tokens(tokens), trained, samples + 1), count);
  MemoryPlan plan;
  plan.weights = model_->bytes();
  plan.activations = count.peak();
  for (const Parameter* p : parameters_) {
    plan.optimizer += 2 * size_t(p->gradient.count()) * sizeof(float);
    // Where they are: lists of the host's.
    if (model_->backend->host_memory())
      plan.trainable += p->index.size() * sizeof(int32_t);
  }
  // In f32 and, for bf16 weights, once more in their type.
  const size_t copies = sizeof(float) + (model_->dtype == DType::bf16 ? 2 : 0);
  for (const Projected& p : projections())
    plan.optimizer += size_t(p.projection.count()) * copies;
  plan.trainable += held_bytes() - plan.optimizer;
  if (ranks_) plan.trainable += size_t(gradient_values()) * sizeof(float);
  plan.workspace = model_->backend->workspace_bytes(tokens, attention_shape(*model_, 0));
  const size_t ours = plan.weights + plan.trainable + plan.optimizer + arena_.bytes();
  const DeviceMemory device = model_->backend->device_memory();
  const size_t used = device.total ? device.used : resident_bytes();
  plan.process = used - std::min(used, ours);
  plan.limit = device.total;
  plan.trainable += calibration_bytes();  // not held yet
  return plan;
}

size_t Tuner::held_bytes() const {
  size_t bytes = bytes_of(bases_);
  for (const Hook& hook : hooks_) bytes += hook.part->bytes();
  for (const StreamHook& hook : stream_hooks_) bytes += hook.intervention->bytes();
  for (const Trained& t : trained_) bytes += t.state.bytes();
  return bytes;
}

void Tuner::refresh_parts() {
  for (Hook& hook : hooks_) hook.part->refresh(*model_->backend);
}

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
  numbers_.read(*model_->backend);
  const double sum = numbers_.sum_of_losses();
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
