// Safetensors files to and from typed arrays.
#pragma once

#include <napi.h>

namespace s2ft {

Napi::Value read_safetensors_js(const Napi::CallbackInfo& info);
Napi::Value write_safetensors_js(const Napi::CallbackInfo& info);

}  // namespace s2ft
