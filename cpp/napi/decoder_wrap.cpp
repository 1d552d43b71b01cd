#include "napi/decoder_wrap.h"

namespace s2ft {

Napi::Function DecoderWrap::define(Napi::Env env) {
  return DefineClass(env, "NativeDecoder",
                     {InstanceMethod("append", &DecoderWrap::append),
                      InstanceMethod("reset", &DecoderWrap::reset),
                      InstanceMethod("dispose", &DecoderWrap::dispose)});
}

Napi::Value DecoderWrap::create(Napi::Env env, std::shared_ptr<ModelState> model,
                                int slots, int capacity) {
  auto state = std::make_shared<State>();
  state->worker = model->worker;
  return run_async(
      env, state->worker,
      [state, model, slots, capacity] {
        if (!model->model) throw Error("DISPOSED", "the model was disposed");
        state->decoder = std::make_unique<Decoder>(model->model, slots, capacity);
        return true;
      },
      [state](Napi::Env env, bool) -> Napi::Value {
        auto held = new std::shared_ptr<State>(state);
        return Instance::of(env).decoder_class.New(
            {Napi::External<std::shared_ptr<State>>::New(
                env, held, [](Napi::Env, std::shared_ptr<State>* p) { delete p; })});
      });
}

DecoderWrap::DecoderWrap(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<DecoderWrap>(info) {
  if (info.Length() != 1 || !info[0].IsExternal())
    throw Napi::TypeError::New(info.Env(), "NativeDecoder is made by createDecoder");
  state_ = *info[0].As<Napi::External<std::shared_ptr<State>>>().Data();
}

std::shared_ptr<DecoderWrap::State> DecoderWrap::live() {
  if (state_->disposed) throw Error("DISPOSED", "the decoder was disposed");
  return state_;
}

Napi::Value DecoderWrap::append(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto state = live();
    const auto list = info[0].As<Napi::Array>();
    auto rows = std::make_shared<std::vector<DecodeRow>>();
    for (uint32_t i = 0; i < list.Length(); ++i) {
      const auto row = list.Get(i).As<Napi::Object>();
      rows->push_back({int(get_int(row, "slot")), get_ints(get(row, "tokens"), "tokens"),
                       read_sampling(get_object(row, "sampling"))});
    }
    return run_async(
        info.Env(), state->worker,
        [state, rows] { return state->decoder->append(*rows, &state->worker->stopping); },
        [](Napi::Env env, std::vector<SampledToken>& sampled) -> Napi::Value {
          auto out = Napi::Array::New(env, sampled.size());
          for (size_t i = 0; i < sampled.size(); ++i) {
            Napi::Object o = Napi::Object::New(env);
            o.Set("token", sampled[i].token);
            o.Set("logProb", sampled[i].log_prob);
            out.Set(uint32_t(i), o);
          }
          return out;
        });
  });
}

Napi::Value DecoderWrap::reset(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto state = live();
    const int slot = info[0].ToNumber().Int32Value();
    return run_async(
        info.Env(), state->worker,
        [state, slot] {
          state->decoder->reset(slot);
          return true;
        },
        [](Napi::Env env, bool) -> Napi::Value { return env.Undefined(); });
  });
}

Napi::Value DecoderWrap::dispose(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    state_->disposed = true;
    if (!state_->worker) return resolved(info.Env());
    return run_async(
        info.Env(), state_->worker,
        [state = state_] {
          state->decoder.reset();
          return true;
        },
        [state = state_](Napi::Env env, bool) -> Napi::Value {
          return release_worker(env, state->worker);
        });
  });
}

}  // namespace s2ft
