#include "tune/tuner.h"

#include "core/memory.h"
#include "model/passes.h"

namespace s2ft {

namespace {

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

}  // namespace s2ft
