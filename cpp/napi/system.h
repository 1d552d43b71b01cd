// What the machine is and what the process holds.
#pragma once

#include <napi.h>

namespace s2ft {

Napi::Value devices_js(const Napi::CallbackInfo& info);
/// What the CPU can multiply just now: (threads, f32, seconds).
Napi::Value current_gflops_js(const Napi::CallbackInfo& info);
/// What of CUDA was found and what is missing.
Napi::Value cuda_report_js(const Napi::CallbackInfo& info);
Napi::Value reset_peak_memory_js(const Napi::CallbackInfo& info);
Napi::Value peak_memory_js(const Napi::CallbackInfo& info);

}  // namespace s2ft
