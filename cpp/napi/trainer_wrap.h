// The handle of a trainer.
#pragma once

#include "napi/model_wrap.h"

namespace s2ft {

class TrainerWrap : public Napi::ObjectWrap<TrainerWrap> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Value create(Napi::Env env, std::shared_ptr<ModelState> model,
                            const Napi::Object& spec);
  explicit TrainerWrap(const Napi::CallbackInfo& info);
  ~TrainerWrap() override;

  struct State {
    std::shared_ptr<Worker> worker;
    std::shared_ptr<ModelState> model;
    std::unique_ptr<Tuner> tuner;  // worker only, but for flags and parameters
    size_t bytes = 0;
    bool disposed = false;
  };

 private:
  std::shared_ptr<State> live();

  Napi::Value parameters(const Napi::CallbackInfo& info);
  Napi::Value plan(const Napi::CallbackInfo& info);
  Napi::Value step(const Napi::CallbackInfo& info);
  Napi::Value gradients(const Napi::CallbackInfo& info);
  Napi::Value calibrate(const Napi::CallbackInfo& info);
  Napi::Value set_places(const Napi::CallbackInfo& info);
  Napi::Value values(const Napi::CallbackInfo& info);
  Napi::Value set_values(const Napi::CallbackInfo& info);
  Napi::Value save_state(const Napi::CallbackInfo& info);
  Napi::Value load_state(const Napi::CallbackInfo& info);
  Napi::Value detach(const Napi::CallbackInfo& info);
  Napi::Value cancel(const Napi::CallbackInfo& info);
  Napi::Value ask_stop(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  std::shared_ptr<State> state_;
};

}  // namespace s2ft
