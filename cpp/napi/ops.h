// The method's building blocks over typed arrays, for people who bring their own network.
#pragma once

#include <napi.h>

namespace s2ft {

Napi::Value permute_js(const Napi::CallbackInfo& info);
Napi::Value linear_forward_js(const Napi::CallbackInfo& info);
Napi::Value linear_backward_js(const Napi::CallbackInfo& info);
Napi::Value adamw_js(const Napi::CallbackInfo& info);

}  // namespace s2ft
