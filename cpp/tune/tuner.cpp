#include "tune/tuner.h"

#include <cmath>

#include "core/memory.h"
#include "core/rng.h"

namespace s2ft {

Tuner::Tuner(std::shared_ptr<Model> model, const MethodSpec& method,
             const OptimizerSpec& optimizer, Recompute recompute)
    : model_(std::move(model)),
      optimizer_(optimizer),
      recompute_(recompute),
      kind_(method.kind) {
  if (model_->tuner)
    throw Error("BUSY", "[trainer] the model already has a trainer: dispose it first");
  model_->tuner = this;
  try {
    if (kind_ == MethodSpec::Kind::s2ft) build_s2ft(method);
    if (kind_ == MethodSpec::Kind::lora) build_lora(method);
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
  attached_ = true;
}

Tuner::~Tuner() {
  if (attached_) detach();
}

void Tuner::adopt(Linear& linear, std::unique_ptr<TunedPart> part) {
  for (auto& parameter : part->parameters) parameters_.push_back(parameter.get());
  hooks_.push_back({&linear, std::move(part)});
}

void Tuner::build_s2ft(const MethodSpec& method) {
  Model& m = *model_;
  if (int(method.selection.size()) != m.config.layers) {
    throw Error("INVALID_ARGUMENT", "[s2ft] expected a selection for each of " +
                                        std::to_string(m.config.layers) +
                                        " layers, found " +
                                        std::to_string(method.selection.size()));
  }
  for (int i = 0; i < m.config.layers; ++i) {
    LayerSelection selection = method.selection[i];
    check_selection(m.config, selection, i);
    permutations_.push_back(co_permutation(m.config, selection, i));
  }
  for (int i = 0; i < m.config.layers; ++i) {
    const CoPermutation& p = permutations_[i];
    apply(m, i, p);
    Layer& l = m.layers[i];
    for (int k = 0; k < kModules; ++k) {
      const UnitRange range = p.range[k];
      if (!range.count) continue;
      const bool channels = k == kGate || k == kUp || k == kDown;
      const int64_t unit = channels ? 1 : m.config.head_dim;
      const int64_t begin = range.begin * unit, count = range.count * unit;
      Linear& linear = *l.linears[k];
      std::unique_ptr<TunedPart> part;
      if (k == kO || k == kDown) {
        part = std::make_unique<ColsPart>(*m.backend, linear, begin, count);
      } else {
        part = std::make_unique<RowsPart>(*m.backend, linear, begin, count);
      }
      Parameter& parameter = *part->parameters[0];
      const std::vector<int32_t>& order =
          channels ? p.channels : (k == kK || k == kV ? p.kv_heads : p.heads);
      for (int64_t u = range.begin; u < range.begin + range.count; ++u)
        for (int64_t j = 0; j < unit; ++j)
          parameter.index.push_back(int32_t(order[u] * unit + j));
      const Mat w = parameter.weight;
      bases_.push_back(m.backend->allocate(size_t(w.count()) * dtype_size(w.dtype)));
      m.backend->copy(mat(bases_.back().data(), w.dtype, w.rows, w.cols), w);
      adopt(linear, std::move(part));
    }
  }
}

void Tuner::build_lora(const MethodSpec& method) {
  if (method.lora.r < 1)
    throw Error("INVALID_ARGUMENT",
                "[lora] expected r >= 1, found " + std::to_string(method.lora.r));
  for (const std::string& name : method.modules) {
    Linear* linear = model_->find_linear(name);
    if (!linear)
      throw Error("INVALID_ARGUMENT", "[lora] the model has no linear layer " + name);
    for (const Hook& hook : hooks_)
      if (hook.linear == linear)
        throw Error("INVALID_ARGUMENT", "[lora] module " + name + " is named twice");
    adopt(*linear, std::make_unique<LoraPart>(*model_->backend, *linear, method.lora));
  }
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

void Tuner::build_full() {
  Model& m = *model_;
  train_weight(m.embedding, "model.embed_tokens", true);
  for (int i = 0; i < m.config.layers; ++i) {
    Layer& l = m.layers[i];
    const std::string base = "model.layers." + std::to_string(i) + ".";
    train_weight(l.attention_norm, base + "input_layernorm", false);
    for (Linear* linear : l.linears) {
      auto part = std::make_unique<AllPart>(*m.backend, *linear);
      if (part->parameters.size() > 1) part->parameters[1]->decays = false;
      adopt(*linear, std::move(part));
      if (linear == &l.v && m.config.qk_norm) {
        train_weight(l.q_norm, base + "self_attn.q_norm", false);
        train_weight(l.k_norm, base + "self_attn.k_norm", false);
      }
    }
    train_weight(l.mlp_norm, base + "post_attention_layernorm", false);
  }
  train_weight(m.final_norm, "model.norm", false);
  if (!m.config.tie_word_embeddings) train_weight(m.head, "lm_head", true);
}

void Tuner::hook_parts() {
  for (Hook& hook : hooks_) hook.linear->part = hook.part.get();
  for (Trained& t : trained_) t.weight->parameter = t.parameter.get();
  // A tied head adds to the embedding's gradient.
  if (kind_ == MethodSpec::Kind::full && model_->config.tie_word_embeddings)
    model_->head.parameter = model_->embedding.parameter;
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

void Tuner::detach() {
  if (!attached_) return;
  for (size_t i = 0; i < bases_.size(); ++i)
    swap(*model_->backend, parameters_[i]->weight, bases_[i].data());
  for (Hook& hook : hooks_) hook.linear->part = nullptr;
  for (Trained& t : trained_) t.weight->parameter = nullptr;
  model_->head.parameter = nullptr;
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
  for (size_t i = 0; i < bases_.size(); ++i)
    swap(*model_->backend, parameters_[i]->weight, bases_[i].data());
  hook_parts();
  attached_ = true;
}

ActivationRequest Tuner::training_request(int64_t tokens, int64_t trained) const {
  ActivationRequest request;
  request.tokens = tokens;
  request.trained = trained;
  request.training = true;
  request.recompute = recompute_;
  return request;
}

void Tuner::prepare_arena(int64_t tokens, int64_t trained) {
  const ActivationRequest request = training_request(tokens, trained);
  Arena count;
  lay_out(*model_, request, count);
  if (count.peak() > arena_.bytes()) {
    arena_.reset();
    arena_ = model_->backend->allocate(count.peak());
  }
  Arena place(arena_.data());
  activations_ = lay_out(*model_, request, place);
}

MemoryPlan Tuner::plan(int64_t tokens, int64_t trained) {
  Arena count;
  lay_out(*model_, training_request(padded_tokens(tokens), trained), count);
  MemoryPlan plan;
  plan.weights = model_->bytes();
  plan.activations = count.peak();
  for (const Parameter* p : parameters_) {
    const size_t values = size_t(p->weight.count()) * sizeof(float);
    plan.trainable += 2 * values;  // master (or base copy) and gradient
    plan.optimizer += 2 * values;
  }
  plan.workspace = model_->backend->workspace_bytes(tokens, model_->config.vocab_size);
  const size_t ours = plan.weights + plan.trainable + plan.optimizer + arena_.bytes();
  const size_t resident = resident_bytes();
  plan.process = resident - std::min(resident, ours);
  return plan;
}

void Tuner::zero_gradients() {
  for (Parameter* p : parameters_) model_->backend->zero(p->gradient);
}

double Tuner::micro_step(const Batch& batch, int micro, float gradient_scale,
                         const std::atomic<bool>* stop) {
  prepare_arena(batch.size(), int64_t(batch.targets.size()));
  uint64_t state = uint64_t(step_) * 65536 + uint64_t(micro);
  const uint64_t seed = splitmix64(state);
  for (Hook& hook : hooks_) hook.part->set_seed(seed);
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

double Tuner::forward_backward(const std::vector<std::vector<Sample>>& micro_batches,
                               int64_t& tokens, const std::atomic<bool>* stop) {
  attach();
  std::vector<Batch> batches;
  tokens = 0;
  for (const std::vector<Sample>& samples : micro_batches) {
    batches.push_back(pack(samples, model_->config.vocab_size));
    tokens += int64_t(batches.back().targets.size());
  }
  if (tokens == 0) {
    throw Error("INVALID_ARGUMENT",
                "[step] the batch has no trained token: every label is -100");
  }
  cancel = false;
  zero_gradients();
  double sum = 0;
  for (size_t i = 0; i < batches.size(); ++i)
    sum += micro_step(batches[i], int(i), float(1.0 / double(tokens)), stop);
  model_->backend->synchronize();
  return sum / double(tokens);
}

StepResult Tuner::step(const std::vector<std::vector<Sample>>& micro_batches,
                       double learning_rate, const std::atomic<bool>* stop) {
  StepResult result;
  result.loss = forward_backward(micro_batches, result.tokens, stop);
  double squares = 0;
  for (Parameter* p : parameters_)
    squares += model_->backend->sum_of_squares(p->gradient);
  result.grad_norm = std::sqrt(squares);
  if (!std::isfinite(result.grad_norm))
    throw NotFinite("the gradient's norm is " + std::to_string(result.grad_norm), -1, -1);
  const double max_norm = optimizer_.max_grad_norm;
  // As torch.nn.utils.clip_grad_norm_.
  const double clip =
      max_norm > 0 ? std::min(1.0, max_norm / (result.grad_norm + 1e-6)) : 1.0;
  ++step_;
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
    update.step = step_;
    model_->backend->adamw(update);
  }
  model_->backend->synchronize();
  return result;
}

double Tuner::gradients(const std::vector<Sample>& samples,
                        const std::atomic<bool>* stop) {
  int64_t tokens;
  return forward_backward({samples}, tokens, stop);
}

}  // namespace s2ft
