// The handle of a loaded model. All its work, and that of its trainers and decoders, runs
// on one worker thread in the order it was asked for.
#pragma once

#include "adapter/fusion.h"
#include "napi/async.h"
#include "napi/convert.h"

namespace s2ft {

struct ModelState {
  std::shared_ptr<Worker> worker;
  std::shared_ptr<Model> model;    // touched on the worker only, once loaded
  std::unique_ptr<Fusion> fusion;  // likewise
  std::string fingerprint;         // likewise; of the base, made before it first changes
  ModelConfig config;              // never changes
  size_t bytes = 0;
  std::string arithmetic;  // as the backend resolved it
  int threads = 0;
  std::string device;     // cpu or cuda
  bool disposed = false;  // JavaScript thread only
};

class ModelWrap : public Napi::ObjectWrap<ModelWrap> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Value load(const Napi::CallbackInfo& info);
  explicit ModelWrap(const Napi::CallbackInfo& info);
  ~ModelWrap() override;

 private:
  /// The state, or an Error DISPOSED.
  std::shared_ptr<ModelState> live();

  Napi::Value bytes(const Napi::CallbackInfo& info);
  Napi::Value arithmetic(const Napi::CallbackInfo& info);
  Napi::Value threads(const Napi::CallbackInfo& info);
  Napi::Value device(const Napi::CallbackInfo& info);
  Napi::Value parameters(const Napi::CallbackInfo& info);
  Napi::Value tensors(const Napi::CallbackInfo& info);
  Napi::Value logits(const Napi::CallbackInfo& info);
  Napi::Value score(const Napi::CallbackInfo& info);
  Napi::Value create_decoder(const Napi::CallbackInfo& info);
  Napi::Value create_trainer(const Napi::CallbackInfo& info);
  Napi::Value fuse(const Napi::CallbackInfo& info);
  Napi::Value unfuse(const Napi::CallbackInfo& info);
  Napi::Value replace(const Napi::CallbackInfo& info);
  Napi::Value put_in(const Napi::CallbackInfo& info, Napi::Value out, Napi::Value in,
                     Napi::Value adapter);
  Napi::Value save(const Napi::CallbackInfo& info);
  Napi::Value fingerprint_of(const Napi::CallbackInfo& info);
  Napi::Value device_memory(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  std::shared_ptr<ModelState> state_;
  std::vector<TensorPlace> places_;  // names, dtypes and shapes for saving
  int64_t parameter_count_ = 0;
};

/// Makes the base's fingerprint if it does not exist yet. Worker only, before any change.
void remember_fingerprint(ModelState& state);

}  // namespace s2ft
