#include "napi/model_wrap.h"

#include "backend/registry.h"
#include "core/threads.h"
#include "model/inference.h"
#include "model/load.h"
#include "napi/decoder_wrap.h"
#include "napi/trainer_wrap.h"

namespace s2ft {

namespace {

Arithmetic read_arithmetic(const std::string& name) {
  if (name == "auto") return Arithmetic::automatic;
  if (name == "native") return Arithmetic::native;
  if (name == "widen") return Arithmetic::widen;
  throw Error("INVALID_ARGUMENT",
              "[load] arithmetic: expected auto, native or widen, found " + name);
}

DType read_dtype(const std::string& name) {
  if (name == "f32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  throw Error("INVALID_ARGUMENT", "[load] dtype: expected f32 or bf16, found " + name);
}

Quantization read_quantization(const std::string& name) {
  if (name == "none") return Quantization::none;
  if (name == "int8") return Quantization::int8;
  if (name == "nf4") return Quantization::nf4;
  throw Error("INVALID_ARGUMENT",
              "[load] quantize: expected none, int8 or nf4, found " + name);
}

}  // namespace

void remember_fingerprint(ModelState& state) {
  if (state.fingerprint.empty()) state.fingerprint = fingerprint(*state.model);
}

Napi::Function ModelWrap::define(Napi::Env env) {
  return DefineClass(env, "NativeModel",
                     {InstanceAccessor("bytes", &ModelWrap::bytes, nullptr),
                      InstanceAccessor("arithmetic", &ModelWrap::arithmetic, nullptr),
                      InstanceAccessor("threads", &ModelWrap::threads, nullptr),
                      InstanceAccessor("device", &ModelWrap::device, nullptr),
                      InstanceAccessor("parameters", &ModelWrap::parameters, nullptr),
                      InstanceMethod("tensors", &ModelWrap::tensors),
                      InstanceMethod("logits", &ModelWrap::logits),
                      InstanceMethod("score", &ModelWrap::score),
                      InstanceMethod("createDecoder", &ModelWrap::create_decoder),
                      InstanceMethod("createTrainer", &ModelWrap::create_trainer),
                      InstanceMethod("fuse", &ModelWrap::fuse),
                      InstanceMethod("unfuse", &ModelWrap::unfuse),
                      InstanceMethod("replace", &ModelWrap::replace),
                      InstanceMethod("save", &ModelWrap::save),
                      InstanceMethod("fingerprint", &ModelWrap::fingerprint_of),
                      InstanceMethod("deviceMemory", &ModelWrap::device_memory),
                      InstanceMethod("dispose", &ModelWrap::dispose)});
}

Napi::Value ModelWrap::load(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto spec = info[0].As<Napi::Object>();
    auto state = std::make_shared<ModelState>();
    state->config = read_config(get_object(spec, "config"));
    const std::vector<std::string> files = get_strings(get(spec, "files"), "files");
    const DType dtype = read_dtype(get_string(spec, "dtype"));
    const Quantization quantization = read_quantization(get_string(spec, "quantize"));
    const std::string device = get_string(spec, "device");
    CpuOptions options;
    options.arithmetic = read_arithmetic(get_string(spec, "arithmetic"));
    const int64_t threads = get_int(spec, "threads");
    if (threads < 0 || threads > 4096)
      throw Error("INVALID_ARGUMENT",
                  "[load] threads: expected 0 to 4096, found " + std::to_string(threads));
    options.threads = threads ? int(threads) : available_cpus();
    Instance& instance = Instance::of(env);
    instance.collect_workers();
    state->worker =
        instance.make_worker([n = options.threads] { enter_worker_thread(n); });
    return run_async(
        env, state->worker,
        [state, files, dtype, quantization, device, options] {
          const PlacedBackend placed = make_backend(device, options);
          state->model =
              load_model(state->config, files, dtype, placed.backend, quantization);
          state->device = placed.cuda ? "cuda" : "cpu";
          state->fusion = std::make_unique<Fusion>(state->model);
          state->bytes = state->model->bytes();
          state->arithmetic = state->model->backend->arithmetic();
          state->threads = state->model->backend->threads();
          return true;
        },
        [state](Napi::Env env, bool) -> Napi::Value {
          adjust_external_memory(env, int64_t(state->bytes));
          auto held = new std::shared_ptr<ModelState>(state);
          return Instance::of(env).model_class.New(
              {Napi::External<std::shared_ptr<ModelState>>::New(
                  env, held,
                  [](Napi::Env, std::shared_ptr<ModelState>* p) { delete p; })});
        });
  });
}

ModelWrap::ModelWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ModelWrap>(info) {
  if (info.Length() != 1 || !info[0].IsExternal())
    throw Napi::TypeError::New(info.Env(), "NativeModel is made by loadModel");
  state_ = *info[0].As<Napi::External<std::shared_ptr<ModelState>>>().Data();
  // The load is over and no other work can have begun: reading here is safe.
  places_ = state_->model->tensors;
  for (TensorPlace& place : places_) place.file.reset();  // the model's alone to keep
  parameter_count_ = state_->model->parameter_count();
}

ModelWrap::~ModelWrap() {
  if (state_ && !state_->disposed) adjust_external_memory(Env(), -int64_t(state_->bytes));
}

std::shared_ptr<ModelState> ModelWrap::live() {
  if (state_->disposed) throw Error("DISPOSED", "the model was disposed");
  return state_;
}

Napi::Value ModelWrap::bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(state_->bytes));
}

Napi::Value ModelWrap::arithmetic(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), state_->arithmetic);
}

Napi::Value ModelWrap::threads(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), state_->threads);
}

Napi::Value ModelWrap::device(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), state_->device);
}

Napi::Value ModelWrap::parameters(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(parameter_count_));
}

Napi::Value ModelWrap::tensors(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto out = Napi::Array::New(env, places_.size());
  for (size_t i = 0; i < places_.size(); ++i) {
    Napi::Object t = Napi::Object::New(env);
    t.Set("name", places_[i].name);
    t.Set("dtype", places_[i].file_dtype);
    auto shape = Napi::Array::New(env);
    for (size_t d = 0; d < places_[i].shape.size(); ++d)
      shape.Set(uint32_t(d), double(places_[i].shape[d]));
    t.Set("shape", shape);
    out.Set(uint32_t(i), t);
  }
  return out;
}

Napi::Value ModelWrap::logits(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto state = live();
    auto tokens = get_ints(info[0], "tokens");
    return run_async(
        info.Env(), state->worker,
        [state, tokens] {
          return all_logits(*state->model, tokens.data(), int32_t(tokens.size()),
                            &state->worker->stopping);
        },
        [](Napi::Env env, std::vector<float>& out) -> Napi::Value {
          return to_js(env, std::move(out));
        });
  });
}

Napi::Value ModelWrap::score(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto state = live();
    auto samples = std::make_shared<OwnedSamples>(read_samples(info[0]));
    std::vector<std::vector<int32_t>> candidates;
    if (info[1].IsArray()) {
      const auto lists = info[1].As<Napi::Array>();
      for (uint32_t i = 0; i < lists.Length(); ++i)
        candidates.push_back(get_ints(lists.Get(i), "candidates"));
    }
    return run_async(
        info.Env(), state->worker,
        [state, samples, candidates] {
          return s2ft::score(*state->model, samples->views(), candidates,
                             &state->worker->stopping);
        },
        [](Napi::Env env, std::vector<std::vector<float>>& out) -> Napi::Value {
          auto array = Napi::Array::New(env, out.size());
          for (size_t i = 0; i < out.size(); ++i)
            array.Set(uint32_t(i), to_js(env, std::move(out[i])));
          return array;
        });
  });
}

Napi::Value ModelWrap::create_decoder(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const double pages = info[0].ToNumber().DoubleValue();
    const double page_rows = info[1].ToNumber().DoubleValue();
    if (!(pages >= 1 && page_rows >= 1 && pages * page_rows < 2147483648.0))
      throw Error("INVALID_ARGUMENT",
                  "[decode] expected pages of at least one and of fewer than 2^31 tokens "
                  "together");
    return DecoderWrap::create(info.Env(), live(), int(pages), int(page_rows));
  });
}

Napi::Value ModelWrap::create_trainer(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    return TrainerWrap::create(info.Env(), live(), info[0].As<Napi::Object>());
  });
}

Napi::Value ModelWrap::fuse(const Napi::CallbackInfo& info) {
  return put_in(info, {}, info[0], info[1]);
}

Napi::Value ModelWrap::replace(const Napi::CallbackInfo& info) {
  return put_in(info, info[0], info[1], info[2]);
}

Napi::Value ModelWrap::put_in(const Napi::CallbackInfo& info, Napi::Value out,
                              Napi::Value in, Napi::Value adapter) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto state = live();
    std::vector<std::string> ids;
    if (!out.IsEmpty()) ids = get_strings(out, "ids");
    const std::string id = in.ToString();
    auto deltas =
        std::make_shared<AdapterDeltas>(read_deltas(adapter.As<Napi::Object>()));
    return run_async(
        info.Env(), state->worker,
        [state, ids, id, deltas] {
          if (state->fusion->empty() && !state->model->tuner)
            remember_fingerprint(*state);
          state->fusion->replace(ids, id, std::move(*deltas));
          return true;
        },
        [](Napi::Env env, bool) -> Napi::Value { return env.Undefined(); });
  });
}

Napi::Value ModelWrap::unfuse(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto state = live();
    const std::string id = info[0].ToString();
    return run_async(
        info.Env(), state->worker,
        [state, id] {
          state->fusion->unfuse(id);
          return true;
        },
        [](Napi::Env env, bool) -> Napi::Value { return env.Undefined(); });
  });
}

Napi::Value ModelWrap::save(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto state = live();
    const std::string path = info[0].ToString();
    const auto list = info[1].As<Napi::Array>();
    std::vector<std::pair<std::string, std::string>> names;
    for (uint32_t i = 0; i < list.Length(); ++i) {
      const auto entry = list.Get(i).As<Napi::Object>();
      names.emplace_back(get_string(entry, "name"), get_string(entry, "dtype"));
    }
    const auto metadata = get_string_map(info[2], "metadata");
    return run_async(
        info.Env(), state->worker,
        [state, path, names, metadata] {
          for (const Layer& layer : state->model->layers)
            if (layer.intervention)
              throw Error("UNSUPPORTED",
                          "[save] the model has a LoReFT adapter, which changes no "
                          "weights and is no part of a checkpoint: take it out first");
          save_tensors(*state->model, path, names, metadata);
          return true;
        },
        [](Napi::Env env, bool) -> Napi::Value { return env.Undefined(); });
  });
}

Napi::Value ModelWrap::fingerprint_of(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto state = live();
    return run_async(
        info.Env(), state->worker,
        [state] {
          remember_fingerprint(*state);
          return state->fingerprint;
        },
        [](Napi::Env env, std::string& text) -> Napi::Value {
          return Napi::String::New(env, text);
        });
  });
}

Napi::Value ModelWrap::device_memory(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto state = live();
    const bool reset = info[0].ToBoolean();
    return run_async(
        info.Env(), state->worker,
        [state, reset] {
          Backend& backend = *state->model->backend;
          const DeviceMemory memory = backend.device_memory();
          if (reset) backend.reset_peak_memory();
          return memory;
        },
        [](Napi::Env env, DeviceMemory& memory) -> Napi::Value {
          Napi::Object o = Napi::Object::New(env);
          o.Set("total", double(memory.total));
          o.Set("used", double(memory.used));
          o.Set("held", double(memory.held));
          o.Set("peak", double(memory.peak));
          return o;
        });
  });
}

Napi::Value ModelWrap::dispose(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const bool first = !state_->disposed;
    state_->disposed = true;
    if (first) adjust_external_memory(env, -int64_t(state_->bytes));
    // Queued behind whatever is in flight; a second call waits as well.
    if (!state_->worker) return resolved(info.Env());
    return run_async(
        env, state_->worker,
        [state = state_] {
          state->fusion.reset();
          state->model.reset();
          return true;
        },
        [state = state_](Napi::Env env, bool) -> Napi::Value {
          return release_worker(env, state->worker);
        });
  });
}

}  // namespace s2ft
