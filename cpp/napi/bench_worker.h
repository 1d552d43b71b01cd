// What the native benchmarks share: reading what they are called with, and a worker with
// a backend of its own that they run on.
#pragma once

#include <napi.h>

#include <atomic>
#include <vector>

#include "core/threads.h"
#include "cpu/cpu_backend.h"
#include "napi/async.h"
#include "napi/convert.h"

namespace s2ft {

/// Seconds of a clock that never goes back.
double bench_now();

/// Throw INVALID_ARGUMENT naming the property.
int64_t read_bench_size(const Napi::Object& object, const char* key, int64_t most);
DType read_bench_dtype(const Napi::Object& object);
/// s2ft-rows, s2ft-cols or lora.
void check_served_method(const std::string& method, const char* key);
CpuOptions read_bench_options(const Napi::Object& object);

Napi::Array seconds_to_js(Napi::Env env, const std::vector<double>& seconds);

/// The promise of to_js(env, work(backend, stopping)); the backend is made on the worker,
/// as `object` says. Work throws CANCELLED soon after `stopping` is raised.
template <class Work, class ToJs>
Napi::Value run_bench(Napi::Env env, const Napi::Object& object, Work work, ToJs to_js) {
  const CpuOptions options = read_bench_options(object);
  Instance& instance = Instance::of(env);
  instance.collect_workers();
  auto worker = instance.make_worker([n = options.threads] { enter_worker_thread(n); });
  return run_async(
      env, worker,
      // The task that holds this closure holds the worker as well.
      [options, work, worker = worker.get()] {
        const auto backend = make_cpu_backend(options);
        return work(*backend, worker->stopping);
      },
      to_js);
}

/// The object that a benchmark was called with.
Napi::Object bench_argument(const Napi::CallbackInfo& info);

}  // namespace s2ft
