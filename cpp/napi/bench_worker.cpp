#include "napi/bench_worker.h"

#include <chrono>

namespace s2ft {

namespace {

void expect(bool holds, const std::string& message) {
  if (!holds) throw Error("INVALID_ARGUMENT", "[bench] " + message);
}

}  // namespace

double bench_now() {
  const auto t = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(t).count();
}

int64_t read_bench_size(const Napi::Object& o, const char* key, int64_t most) {
  const int64_t n = get_int(o, key);
  expect(n >= 1 && n <= most, std::string(key) + ": expected 1 to " +
                                  std::to_string(most) + ", found " + std::to_string(n));
  return n;
}

DType read_bench_dtype(const Napi::Object& o) {
  const std::string dtype = get_string(o, "dtype");
  expect(dtype == "f32" || dtype == "bf16",
         "dtype: expected f32 or bf16, found " + dtype);
  return dtype == "f32" ? DType::f32 : DType::bf16;
}

void check_served_method(const std::string& method, const char* key) {
  expect(method == "s2ft-rows" || method == "s2ft-cols" || method == "lora",
         std::string(key) + ": expected s2ft-rows, s2ft-cols or lora, found " + method);
}

CpuOptions read_bench_options(const Napi::Object& o) {
  CpuOptions options;
  const int64_t threads = get_int(o, "threads");
  expect(threads >= 0 && threads <= 4096,
         "threads: expected 0 to 4096, found " + std::to_string(threads));
  options.threads = threads ? int(threads) : available_cpus();
  const std::string name = get_string(o, "arithmetic");
  expect(name == "auto" || name == "native" || name == "widen",
         "arithmetic: expected auto, native or widen, found " + name);
  if (name == "native") options.arithmetic = Arithmetic::native;
  if (name == "widen") options.arithmetic = Arithmetic::widen;
  return options;
}

Napi::Array seconds_to_js(Napi::Env env, const std::vector<double>& seconds) {
  auto array = Napi::Array::New(env, seconds.size());
  for (size_t i = 0; i < seconds.size(); ++i) array.Set(uint32_t(i), seconds[i]);
  return array;
}

Napi::Object bench_argument(const Napi::CallbackInfo& info) {
  expect(info[0].IsObject(), "expected an object of sizes");
  return info[0].As<Napi::Object>();
}

}  // namespace s2ft
