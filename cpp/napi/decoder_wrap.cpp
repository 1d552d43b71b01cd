#include "napi/decoder_wrap.h"

namespace s2ft {

Napi::Function DecoderWrap::define(Napi::Env env) {
  return DefineClass(env, "NativeDecoder",
                     {InstanceMethod("addAdapter", &DecoderWrap::add_adapter),
                      InstanceMethod("removeAdapter", &DecoderWrap::remove_adapter),
                      InstanceMethod("open", &DecoderWrap::open),
                      InstanceMethod("close", &DecoderWrap::close),
                      InstanceMethod("pass", &DecoderWrap::pass),
                      InstanceMethod("dispose", &DecoderWrap::dispose)});
}

Napi::Value DecoderWrap::create(Napi::Env env, std::shared_ptr<ModelState> model,
                                int pages, int page_rows) {
  auto state = std::make_shared<State>();
  state->worker = model->worker;
  return run_async(
      env, state->worker,
      [state, model, pages, page_rows] {
        if (!model->model) throw Error("DISPOSED", "the model was disposed");
        state->decoder = std::make_unique<Decoder>(model->model, pages, page_rows);
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

namespace {

/// body(decoder) on the worker; resolves with nothing.
template <class Body>
Napi::Value run(Napi::Env env, std::shared_ptr<DecoderWrap::State> state, Body body) {
  return run_async(
      env, state->worker,
      [state, body] {
        body(*state->decoder);
        return true;
      },
      [](Napi::Env env, bool) -> Napi::Value { return env.Undefined(); });
}

DecodeRow read_row(const Napi::Object& o) {
  DecodeRow row;
  row.sequence = get_int(o, "sequence");
  row.tokens = get_ints(get(o, "tokens"), "tokens");
  row.pages = get_ints(get(o, "pages"), "pages");
  row.sample = get_bool(o, "sample");
  row.random = get_number(o, "random");
  if (!get(o, "targets").IsUndefined())
    row.targets = get_ints(get(o, "targets"), "targets");
  return row;
}

Napi::Value row_to_js(Napi::Env env, DecodedRow& row) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("finite", row.finite);
  o.Set("token", row.sampled.token);
  o.Set("logProb", row.sampled.log_prob);
  const auto& top = row.sampled.top;
  auto list = Napi::Array::New(env, top.size());
  for (size_t i = 0; i < top.size(); ++i) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("token", top[i].token);
    entry.Set("logProb", top[i].log_prob);
    list.Set(uint32_t(i), entry);
  }
  o.Set("top", list);
  o.Set("targetLogProbs", to_js(env, std::move(row.target_log_probs)));
  return o;
}

}  // namespace

Napi::Value DecoderWrap::add_adapter(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto state = live();
    const int64_t id = info[0].ToNumber().Int64Value();
    auto deltas =
        std::make_shared<AdapterDeltas>(read_deltas(info[1].As<Napi::Object>()));
    return run_async(
        info.Env(), state->worker,
        [state, id, deltas] { return state->decoder->add_adapter(id, *deltas); },
        [](Napi::Env env, size_t& bytes) -> Napi::Value {
          return Napi::Number::New(env, double(bytes));
        });
  });
}

Napi::Value DecoderWrap::remove_adapter(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const int64_t id = info[0].ToNumber().Int64Value();
    return run(info.Env(), live(),
               [id](Decoder& decoder) { decoder.remove_adapter(id); });
  });
}

Napi::Value DecoderWrap::open(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const int64_t id = info[0].ToNumber().Int64Value();
    const auto o = info[1].As<Napi::Object>();
    SequenceOptions options;
    options.sampling = read_sampling(get_object(o, "sampling"));
    options.adapter = get_int(o, "adapter");
    options.cached = get_ints(get(o, "cached"), "cached");
    options.pages = get_ints(get(o, "pages"), "pages");
    options.prompt = int32_t(get_int(o, "prompt"));
    return run(info.Env(), live(),
               [id, options](Decoder& decoder) { decoder.open(id, options); });
  });
}

Napi::Value DecoderWrap::close(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const int64_t id = info[0].ToNumber().Int64Value();
    return run(info.Env(), live(), [id](Decoder& decoder) { decoder.close(id); });
  });
}

Napi::Value DecoderWrap::pass(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto state = live();
    const auto list = info[0].As<Napi::Array>();
    auto rows = std::make_shared<std::vector<DecodeRow>>();
    for (uint32_t i = 0; i < list.Length(); ++i)
      rows->push_back(read_row(list.Get(i).As<Napi::Object>()));
    return run_async(
        info.Env(), state->worker,
        [state, rows] { return state->decoder->pass(*rows, &state->worker->stopping); },
        [](Napi::Env env, std::vector<DecodedRow>& out) -> Napi::Value {
          auto array = Napi::Array::New(env, out.size());
          for (size_t i = 0; i < out.size(); ++i)
            array.Set(uint32_t(i), row_to_js(env, out[i]));
          return array;
        });
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
