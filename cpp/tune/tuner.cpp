#include "tune/tuner.h"

#include <cmath>

#include "core/memory.h"
#include "core/rng.h"
#include "model/passes.h"

namespace s2ft {

Tuner::Tuner(std::shared_ptr<Model> model, const MethodSpec& method,
             const OptimizerSpec& optimizer, Recompute recompute)
    : model_(std::move(model)),
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
    const size_t values = size_t(p->weight.count()) * sizeof(float);
    plan.trainable += 2 * values;  // master (or base copy) and gradient
    plan.optimizer += 2 * values;
    if (kind_ == MethodSpec::Kind::sparse) plan.trainable += 2 * values;  // base, places
    // Beside quantized weights: a copy to compute with, and the base.
    if (!bases_.empty() && !slices_in_place())
      plan.trainable += 2 * size_t(p->weight.count()) * dtype_size(p->weight.dtype);
  }
  // In f32 and, for bf16 weights, once more in their type.
  const size_t copies = sizeof(float) + (model_->dtype == DType::bf16 ? 2 : 0);
  for (const Projected& p : projections())
    plan.optimizer += size_t(p.projection.count()) * copies;
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

void Tuner::refresh_parts() {
  for (Hook& hook : hooks_) hook.part->refresh(*model_->backend);
}

void Tuner::zero_gradients() {
  for (Parameter* p : parameters_) model_->backend->zero(p->gradient);
}

double Tuner::micro_step(const Batch& batch, int micro, Share share, float gradient_scale,
                         const std::atomic<bool>* stop) {
  prepare_arena(
      training_request(batch.size(), int64_t(batch.targets.size()), batch.samples()));
  // Dropout does not depend on the number of ranks that divide a step.
  uint64_t state = uint64_t(step_) * 65536 + uint64_t(micro * share.size + share.rank);
  const uint64_t seed = splitmix64(state);
  for (Hook& hook : hooks_) hook.part->set_seed(seed);
  for (StreamHook& hook : stream_hooks_) hook.intervention->set_seed(seed);
  const Pass pass{*model_, batch, activations_, true, nullptr, nullptr, &cancel, stop};
  forward(pass);
  HeadResult head;
  try {
    head = loss_head(pass, gradient_scale);
  } catch (const NonFiniteRow& e) {
    throw NotFinite(e.what(), micro, e.sample);
  }
  double sum = 0;
  for (float nll : head.nll) sum += nll;
  if (!batch.targets.empty()) backward(pass);
  return sum;
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

double Tuner::forward_backward(const std::vector<std::vector<Sample>>& micro_batches,
                               int64_t& tokens, const std::atomic<bool>* stop) {
  attach();
  return accumulate(micro_batches, tokens, stop);
}

std::vector<Batch> Tuner::pack_all(
    const std::vector<std::vector<Sample>>& micro_batches) const {
  std::vector<Batch> batches;
  for (const std::vector<Sample>& samples : micro_batches)
    batches.push_back(pack(samples, model_->config.vocab_size));
  return batches;
}

double Tuner::accumulate(const std::vector<std::vector<Sample>>& micro_batches,
                         int64_t& tokens, const std::atomic<bool>* stop) {
  const std::vector<Batch> batches = pack_all(micro_batches);
  tokens = 0;
  for (const Batch& batch : batches) tokens += int64_t(batch.targets.size());
  require_work(tokens, count_prompts(batches));
  cancel = false;
  zero_gradients();
  return run(batches, float(1.0 / double(tokens)), {}, stop) / double(tokens);
}

double Tuner::run(const std::vector<Batch>& batches, float gradient_scale, Share share,
                  const std::atomic<bool>* stop) {
  double sum = 0;
  for (size_t i = 0; i < batches.size(); ++i) {
    // The step's first micro-batch, which makes GaLore's projections, is rank 0's.
    if (i == 0 && share.rank > 0 && renewing()) share_projections();
    sum += micro_step(batches[i], int(i), share, gradient_scale, stop);
    if (i == 0 && share.rank == 0 && share.size > 1 && renewing()) share_projections();
  }
  for (StreamHook& hook : stream_hooks_)
    hook.intervention->finish_gradients(*model_->backend);
  model_->backend->synchronize();
  return sum;
}

StepResult Tuner::step(const std::vector<std::vector<Sample>>& micro_batches,
                       double learning_rate, const std::atomic<bool>* stop,
                       int64_t expected_tokens) {
  require_choice();
  attach();
  if (kind_ == MethodSpec::Kind::lisa) enter_period(step_ / lisa_.interval);
  if (renewing())
    for (Hook& hook : hooks_) static_cast<GalorePart&>(*hook.part).renew(step_);
  StepResult result = all_gradients(micro_batches, stop, expected_tokens);
  std::vector<Mat> gradients;
  for (Parameter* p : parameters_) gradients.push_back(p->gradient);
  result.grad_norm =
      std::sqrt(model_->backend->sum_of_squares(gradients.data(), int(gradients.size())));
  if (!std::isfinite(result.grad_norm))
    throw NotFinite("the gradient's norm is " + std::to_string(result.grad_norm), -1, -1);
  const double max_norm = optimizer_.max_grad_norm;
  // As torch.nn.utils.clip_grad_norm_.
  const double clip =
      max_norm > 0 ? std::min(1.0, max_norm / (result.grad_norm + 1e-6)) : 1.0;
  ++step_;
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
    update.gradient_scale = float(clip);
    update.step = step_ - p->born;
    updates.push_back(update);
  }
  model_->backend->adamw(updates.data(), int(updates.size()));
  for (Hook& hook : hooks_)
    hook.part->stepped(*model_->backend, learning_rate, optimizer_.weight_decay);
  for (StreamHook& hook : stream_hooks_) hook.intervention->stepped(*model_->backend);
  model_->backend->synchronize();
  return result;
}

double Tuner::gradients(const std::vector<Sample>& samples,
                        const std::atomic<bool>* stop) {
  require_choice();
  return all_gradients({samples}, stop, 0).loss;
}

}  // namespace s2ft
