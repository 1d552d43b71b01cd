// Times what it takes to exchange the adapter that is fused into square weights.
#pragma once

#include <napi.h>

namespace s2ft {

/// As benchSwitch in lib/native/binding.ts.
Napi::Value bench_switch_js(const Napi::CallbackInfo& info);

}  // namespace s2ft
