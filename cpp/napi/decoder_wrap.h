// The handle of a decoder.
#pragma once

#include "napi/model_wrap.h"

namespace s2ft {

class DecoderWrap : public Napi::ObjectWrap<DecoderWrap> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Value create(Napi::Env env, std::shared_ptr<ModelState> model, int pages,
                            int page_rows);
  explicit DecoderWrap(const Napi::CallbackInfo& info);

  struct State {
    std::shared_ptr<Worker> worker;
    std::unique_ptr<Decoder> decoder;  // worker only
    bool disposed = false;
  };

 private:
  Napi::Value add_adapter(const Napi::CallbackInfo& info);
  Napi::Value remove_adapter(const Napi::CallbackInfo& info);
  Napi::Value open(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);
  Napi::Value pass(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  std::shared_ptr<State> live();

  std::shared_ptr<State> state_;
};

}  // namespace s2ft
