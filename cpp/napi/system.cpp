#include "napi/system.h"

#include <cstdio>
#include <cstring>

#include "core/threads.h"
#include "cpu/cpu_backend.h"
#include "napi/async.h"

namespace s2ft {

Napi::Value devices_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    CpuOptions options;
    options.threads = info[0].IsNumber() ? info[0].ToNumber().Int32Value() : 0;
    if (options.threads <= 0) options.threads = available_cpus();
    return run_async(
        // An unpinned thread: the probe starts threads of its own and pins those.
        env, Instance::of(env).io_worker(), [options] { return describe_cpu(options); },
        [](Napi::Env env, CpuDescription& d) -> Napi::Value {
          Napi::Object o = Napi::Object::New(env);
          o.Set("name", d.name);
          o.Set("kind", "cpu");
          o.Set("arithmetic", d.arithmetic);
          o.Set("isa", d.isa);
          o.Set("gemm", d.gemm);
          o.Set("threads", d.threads);
          o.Set("peakGflops",
                d.arithmetic == "f32" ? d.peak_gflops_f32 : d.peak_gflops_bf16);
          o.Set("peakGflopsF32", d.peak_gflops_f32);
          o.Set("peakGflopsBf16", d.peak_gflops_bf16);
          auto out = Napi::Array::New(env);
          out.Set(0u, o);
          return out;
        });
  });
}

Napi::Value reset_peak_memory_js(const Napi::CallbackInfo& info) {
  if (FILE* f = std::fopen("/proc/self/clear_refs", "w")) {
    std::fputs("5", f);
    std::fclose(f);
  }
  return info.Env().Undefined();
}

Napi::Value peak_memory_js(const Napi::CallbackInfo& info) {
  double kilobytes = 0;
  if (FILE* f = std::fopen("/proc/self/status", "r")) {
    char line[256];
    while (std::fgets(line, sizeof line, f))
      if (std::strncmp(line, "VmHWM:", 6) == 0) std::sscanf(line + 6, "%lf", &kilobytes);
    std::fclose(f);
  }
  return Napi::Number::New(info.Env(), kilobytes * 1024);
}

}  // namespace s2ft
