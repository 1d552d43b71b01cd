#include "napi/trainer_wrap.h"

#include "napi/job_wrap.h"

namespace s2ft {

namespace {

Recompute read_recompute(const std::string& name) {
  if (name == "none") return Recompute::none;
  if (name == "selective") return Recompute::selective;
  if (name == "block") return Recompute::block;
  throw Error("INVALID_ARGUMENT",
              "[trainer] recompute: expected none, selective or block, found " + name);
}

Napi::Value undefined(Napi::Env env, bool) {
  return env.Undefined();
}

Napi::Array arrays_to_js(Napi::Env env, std::vector<std::vector<float>>& values) {
  auto out = Napi::Array::New(env, values.size());
  for (size_t i = 0; i < values.size(); ++i)
    out.Set(uint32_t(i), to_js(env, std::move(values[i])));
  return out;
}

std::shared_ptr<std::vector<OwnedSamples>> read_batches(const Napi::Value& value) {
  if (!value.IsArray())
    throw Error("INVALID_ARGUMENT", "[trainer] expected an array of micro-batches");
  const auto list = value.As<Napi::Array>();
  auto batches = std::make_shared<std::vector<OwnedSamples>>();
  for (uint32_t i = 0; i < list.Length(); ++i)
    batches->push_back(read_samples(list.Get(i)));
  return batches;
}

std::vector<std::vector<Sample>> views_of(const std::vector<OwnedSamples>& batches) {
  std::vector<std::vector<Sample>> views;
  for (const OwnedSamples& samples : batches) views.push_back(samples.views());
  return views;
}

/// On the worker: dispose() may have been queued before this call.
void check_live(TrainerWrap::State& state) {
  if (!state.tuner) throw Error("DISPOSED", "the trainer was disposed");
}

}  // namespace

Napi::Function TrainerWrap::define(Napi::Env env) {
  return DefineClass(env, "NativeTrainer",
                     {InstanceMethod("parameters", &TrainerWrap::parameters),
                      InstanceMethod("plan", &TrainerWrap::plan),
                      InstanceMethod("step", &TrainerWrap::step),
                      InstanceMethod("gradients", &TrainerWrap::gradients),
                      InstanceMethod("calibrate", &TrainerWrap::calibrate),
                      InstanceMethod("setPlaces", &TrainerWrap::set_places),
                      InstanceMethod("values", &TrainerWrap::values),
                      InstanceMethod("setValues", &TrainerWrap::set_values),
                      InstanceMethod("saveState", &TrainerWrap::save_state),
                      InstanceMethod("loadState", &TrainerWrap::load_state),
                      InstanceMethod("detach", &TrainerWrap::detach),
                      InstanceMethod("cancel", &TrainerWrap::cancel),
                      InstanceMethod("askStop", &TrainerWrap::ask_stop),
                      InstanceMethod("dispose", &TrainerWrap::dispose)});
}

Napi::Value TrainerWrap::create(Napi::Env env, std::shared_ptr<ModelState> model,
                                const Napi::Object& spec) {
  const MethodSpec method = read_method(get_object(spec, "method"));
  OptimizerSpec optimizer;
  optimizer.beta1 = get_number(spec, "beta1");
  optimizer.beta2 = get_number(spec, "beta2");
  optimizer.epsilon = get_number(spec, "epsilon");
  optimizer.weight_decay = get_number(spec, "weightDecay");
  optimizer.max_grad_norm = get_number(spec, "maxGradNorm");
  const Recompute recompute = read_recompute(get_string(spec, "recompute"));
  std::shared_ptr<Communicator> ranks;
  if (!get(spec, "job").IsUndefined()) ranks = JobWrap::job_of(get(spec, "job"));
  auto state = std::make_shared<State>();
  state->worker = model->worker;
  state->model = model;
  return run_async(
      env, state->worker,
      [state, method, optimizer, recompute, ranks] {
        ModelState& model = *state->model;
        if (!model.model) throw Error("DISPOSED", "the model was disposed");
        if (!model.model->tuner && model.fusion->empty()) remember_fingerprint(model);
        state->tuner = std::make_unique<Tuner>(model.model, method, optimizer, recompute);
        if (ranks) state->tuner->join(ranks, join_devices(*model.model->backend, *ranks));
        for (const Parameter* p : state->tuner->parameters())
          state->bytes += 4 * size_t(p->weight.count()) * sizeof(float);
        return true;
      },
      [state](Napi::Env env, bool) -> Napi::Value {
        adjust_external_memory(env, int64_t(state->bytes));
        auto held = new std::shared_ptr<State>(state);
        return Instance::of(env).trainer_class.New(
            {Napi::External<std::shared_ptr<State>>::New(
                env, held, [](Napi::Env, std::shared_ptr<State>* p) { delete p; })});
      });
}

TrainerWrap::TrainerWrap(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<TrainerWrap>(info) {
  if (info.Length() != 1 || !info[0].IsExternal())
    throw Napi::TypeError::New(info.Env(), "NativeTrainer is made by createTrainer");
  state_ = *info[0].As<Napi::External<std::shared_ptr<State>>>().Data();
}

TrainerWrap::~TrainerWrap() {
  if (!state_ || state_->disposed) return;
  adjust_external_memory(Env(), -int64_t(state_->bytes));
  // Taking the tuned weights out touches the model, so it is the worker's business.
  state_->worker->post([state = state_] { state->tuner.reset(); });
}

std::shared_ptr<TrainerWrap::State> TrainerWrap::live() {
  if (state_->disposed) throw Error("DISPOSED", "the trainer was disposed");
  return state_;
}

Napi::Value TrainerWrap::parameters(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    // LISA's change within step(), what data choose within calibrate(), setPlaces() and
    // loadState(): callers wait for these before they ask.
    const auto& parameters = live()->tuner->parameters();
    auto out = Napi::Array::New(env, parameters.size());
    for (size_t i = 0; i < parameters.size(); ++i) {
      const Parameter& p = *parameters[i];
      Napi::Object o = Napi::Object::New(env);
      o.Set("name", p.name);
      o.Set("module", p.module);
      o.Set("kind", p.kind);
      auto shape = Napi::Array::New(env);
      const bool vector =
          p.weight.rows == 1 &&
          (p.kind == "bias" || p.kind == "all" || p.kind == "lora_magnitude_vector" ||
           p.kind == "loreft_b" || p.kind == "sparse");
      if (!vector) shape.Set(0u, double(p.weight.rows));
      shape.Set(vector ? 0u : 1u, double(p.weight.cols));
      o.Set("shape", shape);
      if (!p.index.empty()) o.Set("index", to_js(env, p.index));
      out.Set(uint32_t(i), o);
    }
    return out;
  });
}

Napi::Value TrainerWrap::plan(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    auto state = live();
    const int64_t tokens = info[0].ToNumber().Int64Value();
    const int64_t trained = info[1].ToNumber().Int64Value();
    const int64_t samples = info[2].ToNumber().Int64Value();
    if (tokens < 1 || trained < 0 || trained > tokens || samples < 1 || samples > tokens)
      throw Error("INVALID_ARGUMENT",
                  "[plan] expected 0 <= trained <= tokens and 1 <= samples <= tokens");
    return run_async(
        env, state->worker,
        [state, tokens, trained, samples] {
          check_live(*state);
          return state->tuner->plan(tokens, trained, samples);
        },
        [](Napi::Env env, MemoryPlan& plan) -> Napi::Value {
          Napi::Object o = Napi::Object::New(env);
          o.Set("weights", double(plan.weights));
          o.Set("trainable", double(plan.trainable));
          o.Set("optimizer", double(plan.optimizer));
          o.Set("activations", double(plan.activations));
          o.Set("workspace", double(plan.workspace));
          o.Set("process", double(plan.process));
          o.Set("total", double(plan.total()));
          o.Set("limit", double(plan.limit));
          return o;
        });
  });
}

Napi::Value TrainerWrap::step(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    auto state = live();
    auto batches = read_batches(info[0]);
    const double rate = info[1].ToNumber().DoubleValue();
    const int64_t expected =
        info[2].IsNumber() ? info[2].ToNumber().Int64Value() : int64_t(0);
    return run_async(
        env, state->worker,
        [state, batches, rate, expected] {
          check_live(*state);
          return state->tuner->step(views_of(*batches), rate, &state->worker->stopping,
                                    expected);
        },
        [](Napi::Env env, StepResult& r) -> Napi::Value {
          Napi::Object o = Napi::Object::New(env);
          o.Set("loss", r.loss);
          o.Set("gradNorm", r.grad_norm);
          o.Set("tokens", double(r.tokens));
          o.Set("inputTokens", double(r.inputs));
          o.Set("stopAsked", r.stop_asked);
          return o;
        });
  });
}

Napi::Value TrainerWrap::gradients(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  struct Result {
    double loss;
    std::vector<std::vector<float>> gradients;
  };
  return guarded(env, [&]() -> Napi::Value {
    auto state = live();
    auto samples = std::make_shared<OwnedSamples>(read_samples(info[0]));
    return run_async(
        env, state->worker,
        [state, samples] {
          check_live(*state);
          Result r;
          r.loss = state->tuner->gradients(samples->views(), &state->worker->stopping);
          for (const Parameter* p : state->tuner->parameters())
            r.gradients.push_back(state->tuner->gradient(*p));
          return r;
        },
        [](Napi::Env env, Result& r) -> Napi::Value {
          Napi::Object o = Napi::Object::New(env);
          o.Set("loss", r.loss);
          o.Set("gradients", arrays_to_js(env, r.gradients));
          return o;
        });
  });
}

Napi::Value TrainerWrap::calibrate(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto state = live();
    auto batches = read_batches(info[0]);
    return run_async(
        info.Env(), state->worker,
        [state, batches] {
          check_live(*state);
          state->tuner->calibrate(views_of(*batches), &state->worker->stopping);
          return true;
        },
        undefined);
  });
}

Napi::Value TrainerWrap::set_places(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto state = live();
    const auto list = info[0].As<Napi::Array>();
    auto places = std::make_shared<std::vector<std::vector<int32_t>>>();
    for (uint32_t i = 0; i < list.Length(); ++i)
      places->push_back(get_ints(list.Get(i), "places"));
    return run_async(
        info.Env(), state->worker,
        [state, places] {
          check_live(*state);
          state->tuner->set_places(*places);
          return true;
        },
        undefined);
  });
}

Napi::Value TrainerWrap::values(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto state = live();
    return run_async(
        info.Env(), state->worker,
        [state] {
          check_live(*state);
          std::vector<std::vector<float>> out;
          for (const Parameter* p : state->tuner->parameters())
            out.push_back(state->tuner->values(*p));
          return out;
        },
        [](Napi::Env env, std::vector<std::vector<float>>& out) -> Napi::Value {
          return arrays_to_js(env, out);
        });
  });
}

Napi::Value TrainerWrap::set_values(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto state = live();
    const auto list = info[0].As<Napi::Array>();
    auto values = std::make_shared<std::vector<std::vector<float>>>();
    for (uint32_t i = 0; i < list.Length(); ++i)
      values->push_back(get_floats(list.Get(i), "values"));
    return run_async(
        info.Env(), state->worker,
        [state, values] {
          check_live(*state);
          state->tuner->set_values(*values);
          return true;
        },
        undefined);
  });
}

Napi::Value TrainerWrap::save_state(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto state = live();
    const std::string path = info[0].ToString();
    const auto metadata = get_string_map(info[1], "metadata");
    return run_async(
        info.Env(), state->worker,
        [state, path, metadata] {
          check_live(*state);
          state->tuner->save_state(path, metadata);
          return true;
        },
        undefined);
  });
}

Napi::Value TrainerWrap::load_state(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto state = live();
    const std::string path = info[0].ToString();
    return run_async(
        info.Env(), state->worker,
        [state, path] {
          check_live(*state);
          return state->tuner->load_state(path);
        },
        [](Napi::Env env, std::map<std::string, std::string>& metadata) -> Napi::Value {
          return to_js(env, metadata);
        });
  });
}

Napi::Value TrainerWrap::detach(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto state = live();
    return run_async(
        info.Env(), state->worker,
        [state] {
          check_live(*state);
          state->tuner->detach();
          return true;
        },
        undefined);
  });
}

Napi::Value TrainerWrap::cancel(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    live()->tuner->cancel = true;
    return info.Env().Undefined();
  });
}

Napi::Value TrainerWrap::ask_stop(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    live()->tuner->stop_asked = true;
    return info.Env().Undefined();
  });
}

Napi::Value TrainerWrap::dispose(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    if (!state_->disposed) adjust_external_memory(env, -int64_t(state_->bytes));
    state_->disposed = true;
    if (!state_->worker) return resolved(info.Env());
    return run_async(
        env, state_->worker,
        [state = state_] {
          // Full fine-tuning and LISA left another base behind.
          if (state->tuner && state->tuner->changes_base())
            state->model->fingerprint.clear();
          state->tuner.reset();
          state->model.reset();
          return true;
        },
        [state = state_](Napi::Env env, bool) -> Napi::Value {
          return release_worker(env, state->worker);
        });
  });
}

}  // namespace s2ft
