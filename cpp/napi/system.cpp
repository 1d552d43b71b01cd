#include "napi/system.h"

#include <cstdio>
#include <cstring>

#include "backend/registry.h"
#include "core/threads.h"
#include "napi/async.h"

namespace s2ft {

namespace {

struct FoundDevices {
  CpuDescription cpu;
  std::vector<CudaDevice> cuda;
  std::string products;  // what multiplies on CUDA
  std::vector<double> gflops_f32, gflops_bf16;
};

FoundDevices find_devices(const CpuOptions& options) {
  FoundDevices found;
  found.cpu = describe_cpu(options);
  if (!cuda_usable()) return found;
  found.cuda = cuda_report().description.devices;
  for (size_t i = 0; i < found.cuda.size(); ++i) {
    const auto backend = make_backend("cuda:" + std::to_string(i), options).backend;
    found.products = backend->arithmetic();
    found.gflops_f32.push_back(product_gflops(*backend, DType::f32));
    found.gflops_bf16.push_back(product_gflops(*backend, DType::bf16));
  }
  return found;
}

Napi::Object device_to_js(Napi::Env env, const CpuDescription& d) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("name", d.name);
  o.Set("kind", "cpu");
  o.Set("arithmetic", d.arithmetic);
  o.Set("isa", d.isa);
  o.Set("gemm", d.gemm);
  o.Set("threads", d.threads);
  o.Set("peakGflops", d.arithmetic == "f32" ? d.peak_gflops_f32 : d.peak_gflops_bf16);
  o.Set("peakGflopsF32", d.peak_gflops_f32);
  o.Set("peakGflopsBf16", d.peak_gflops_bf16);
  return o;
}

Napi::Object device_to_js(Napi::Env env, const FoundDevices& found, size_t i) {
  const CudaDevice& d = found.cuda[i];
  Napi::Object o = Napi::Object::New(env);
  o.Set("name", d.name);
  o.Set("kind", "cuda");
  o.Set("arithmetic", "bf16");
  o.Set("isa", "sm_" + std::to_string(d.major) + std::to_string(d.minor));
  o.Set("gemm", found.products.substr(0, found.products.find('/')));
  o.Set("threads", 0);
  o.Set("peakGflops", found.gflops_bf16[i]);
  o.Set("peakGflopsF32", found.gflops_f32[i]);
  o.Set("peakGflopsBf16", found.gflops_bf16[i]);
  o.Set("multiprocessors", d.multiprocessors);
  o.Set("totalBytes", double(d.total_bytes));
  o.Set("freeBytes", double(d.free_bytes));
  return o;
}

Napi::Array strings_to_js(Napi::Env env, const std::vector<std::string>& lines) {
  auto out = Napi::Array::New(env, lines.size());
  for (size_t i = 0; i < lines.size(); ++i) out.Set(uint32_t(i), lines[i]);
  return out;
}

/// A number of threads; 0 or nothing: all CPUs.
CpuOptions read_threads(const Napi::Value& threads) {
  CpuOptions options;
  options.threads = threads.IsNumber() ? threads.ToNumber().Int32Value() : 0;
  if (options.threads <= 0) options.threads = available_cpus();
  return options;
}

}  // namespace

Napi::Value devices_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const CpuOptions options = read_threads(info[0]);
    return run_async(
        // An unpinned thread: the probe starts threads of its own and pins those.
        env, Instance::of(env).io_worker(), [options] { return find_devices(options); },
        [](Napi::Env env, FoundDevices& found) -> Napi::Value {
          auto out = Napi::Array::New(env);
          out.Set(0u, device_to_js(env, found.cpu));
          for (size_t i = 0; i < found.cuda.size(); ++i)
            out.Set(uint32_t(i + 1), device_to_js(env, found, i));
          return out;
        });
  });
}

Napi::Value current_gflops_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const CpuOptions options = read_threads(info[0]);
    const DType dtype = info[1].ToBoolean() ? DType::f32 : DType::bf16;
    const double seconds = info[2].ToNumber();
    return run_async(
        env, Instance::of(env).io_worker(),
        [=] { return current_cpu_gflops(options, dtype, seconds); },
        [](Napi::Env env, double gflops) -> Napi::Value {
          return Napi::Number::New(env, gflops);
        });
  });
}

Napi::Value cuda_report_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    return run_async(
        env, Instance::of(env).io_worker(), [] { return &cuda_report(); },
        [](Napi::Env env, const CudaReport* report) -> Napi::Value {
          Napi::Object o = Napi::Object::New(env);
          o.Set("library", report->library);
          o.Set("problem", report->problem);
          o.Set("tried", strings_to_js(env, report->tried));
          o.Set("driver", report->description.driver);
          o.Set("runtime", report->description.runtime);
          const std::vector<CudaPiece>& pieces = report->description.pieces;
          auto list = Napi::Array::New(env, pieces.size());
          for (size_t i = 0; i < pieces.size(); ++i) {
            Napi::Object piece = Napi::Object::New(env);
            piece.Set("name", pieces[i].name);
            piece.Set("path", pieces[i].path);
            piece.Set("purpose", pieces[i].purpose);
            piece.Set("remedy", pieces[i].remedy);
            piece.Set("tried", strings_to_js(env, pieces[i].tried));
            list.Set(uint32_t(i), piece);
          }
          o.Set("pieces", list);
          return o;
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
