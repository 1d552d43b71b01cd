// Times one linear layer under a batch in which every row has an adapter of its own.
#pragma once

#include <napi.h>

namespace s2ft {

/// As benchLayer in lib/native/binding.ts.
Napi::Value bench_layer_js(const Napi::CallbackInfo& info);

}  // namespace s2ft
