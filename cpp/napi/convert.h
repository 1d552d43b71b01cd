// Between JavaScript values and the core's types. Reading throws INVALID_ARGUMENT naming
// the property; the TypeScript layer has validated before, so this is the second net.
#pragma once

#include <napi.h>

#include <map>
#include <string>
#include <vector>

#include "adapter/deltas.h"
#include "core/error.h"
#include "model/batch.h"
#include "model/config.h"
#include "serve/decoder.h"
#include "tune/tuner.h"

namespace s2ft {

Napi::Value get(const Napi::Object& object, const char* key);
double get_number(const Napi::Object& object, const char* key);
int64_t get_int(const Napi::Object& object, const char* key);
bool get_bool(const Napi::Object& object, const char* key);
std::string get_string(const Napi::Object& object, const char* key);
Napi::Object get_object(const Napi::Object& object, const char* key);
Napi::Array get_array(const Napi::Object& object, const char* key);
std::vector<int32_t> get_ints(const Napi::Value& array, const char* what);
std::vector<float> get_floats(const Napi::Value& array, const char* what);
std::vector<std::string> get_strings(const Napi::Value& array, const char* what);
std::map<std::string, std::string> get_string_map(const Napi::Value& value,
                                                  const char* what);

ModelConfig read_config(const Napi::Object& object);
/// r, positions and sharing; neither dropout nor seed.
LoreftOptions read_loreft(const Napi::Object& object);
MethodSpec read_method(const Napi::Object& object);
Sampling read_sampling(const Napi::Object& object);
AdapterDeltas read_deltas(const Napi::Object& object);

/// Samples copied off JavaScript memory, which may change while a task waits.
struct OwnedSamples {
  std::vector<std::vector<int32_t>> tokens, labels;
  std::vector<Sample> views() const;
};
OwnedSamples read_samples(const Napi::Value& value);

/// Typed arrays that take the vector's memory over, without a copy.
Napi::Float32Array to_js(Napi::Env env, std::vector<float>&& values);
Napi::Int32Array to_js(Napi::Env env, const std::vector<int32_t>& values);
Napi::Object to_js(Napi::Env env, const std::map<std::string, std::string>& map);

}  // namespace s2ft
