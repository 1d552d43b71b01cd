// The addon's entry: one Instance an environment, so worker_threads may load it too.
#include "napi/bench_layer.h"
#include "napi/bench_ops.h"
#include "napi/bench_switch.h"
#include "napi/decoder_wrap.h"
#include "napi/files.h"
#include "napi/job_wrap.h"
#include "napi/model_wrap.h"
#include "napi/ops.h"
#include "napi/system.h"
#include "napi/trainer_wrap.h"

namespace s2ft {

namespace {

Napi::Value set_error_class(const Napi::CallbackInfo& info) {
  Instance::of(info.Env()).set_error_class(info[0].As<Napi::Function>());
  return info.Env().Undefined();
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto* instance = new Instance(env);
  env.SetInstanceData(instance);
  instance->model_class = Napi::Persistent(ModelWrap::define(env));
  instance->trainer_class = Napi::Persistent(TrainerWrap::define(env));
  instance->decoder_class = Napi::Persistent(DecoderWrap::define(env));
  instance->job_class = Napi::Persistent(JobWrap::define(env));
  exports.Set("version", S2FT_VERSION);
  exports.Set("setErrorClass", Napi::Function::New(env, set_error_class));
  exports.Set("loadModel", Napi::Function::New(env, ModelWrap::load));
  exports.Set("readSafetensors", Napi::Function::New(env, read_safetensors_js));
  exports.Set("writeSafetensors", Napi::Function::New(env, write_safetensors_js));
  exports.Set("permute", Napi::Function::New(env, permute_js));
  exports.Set("linearForward", Napi::Function::New(env, linear_forward_js));
  exports.Set("linearBackward", Napi::Function::New(env, linear_backward_js));
  exports.Set("adamw", Napi::Function::New(env, adamw_js));
  exports.Set("benchOps", Napi::Function::New(env, bench_ops_js));
  exports.Set("startJob", Napi::Function::New(env, JobWrap::start));
  exports.Set("benchLayer", Napi::Function::New(env, bench_layer_js));
  exports.Set("benchSwitch", Napi::Function::New(env, bench_switch_js));
  exports.Set("devices", Napi::Function::New(env, devices_js));
  exports.Set("currentGflops", Napi::Function::New(env, current_gflops_js));
  exports.Set("cudaReport", Napi::Function::New(env, cuda_report_js));
  exports.Set("resetPeakMemory", Napi::Function::New(env, reset_peak_memory_js));
  exports.Set("peakMemory", Napi::Function::New(env, peak_memory_js));
  return exports;
}

}  // namespace

NODE_API_MODULE(s2ft, init)

}  // namespace s2ft
