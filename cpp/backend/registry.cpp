// Alone knows where the CUDA backend lies and whether it was built. The library stays
// open for the process's life: its code may run as long as any backend of it.
#include "backend/registry.h"

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/rng.h"

namespace s2ft {

namespace {

constexpr const char* kFile = "libs2ft_cuda.so";

/// The folder of the addon, or of the program that this code is linked into.
std::string own_folder() {
  Dl_info info{};
  if (!dladdr(reinterpret_cast<const void*>(&cuda_report), &info) || !info.dli_fname)
    return ".";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

struct Opened {
  const CudaLibrary* library = nullptr;
  CudaReport report;
};

std::vector<std::string> places() {
  const char* given = std::getenv("S2FT_CUDA_LIBRARY");
  if (given && *given) return {given};
  // Beside the addon; test programs lie a folder above it.
  return {own_folder() + "/" + kFile, own_folder() + "/Release/" + kFile};
}

std::string list(const std::vector<std::string>& lines) {
  std::string out;
  for (const std::string& line : lines) out += (out.empty() ? "" : ", ") + line;
  return out;
}

Opened open() {
  Opened opened;
  CudaReport& report = opened.report;
  for (const std::string& path : places()) {
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
      const char* why = dlerror();
      report.tried.push_back(why ? why : path);
      continue;
    }
    const auto entry = reinterpret_cast<CudaEntry>(dlsym(handle, kCudaEntry));
    if (!entry) {
      report.tried.push_back(path + ": no CUDA backend of s2ft");
      continue;
    }
    const CudaLibrary* library = entry();
    if (std::string(library->interface) != S2FT_BACKEND_INTERFACE) {
      report.tried.push_back(path + ": built from other sources than this package (" +
                             library->interface + ", expected " + S2FT_BACKEND_INTERFACE +
                             ")");
      continue;
    }
    opened.library = library;
    report.library = path;
    break;
  }
  if (!opened.library) {
    report.problem = "the CUDA backend could not be loaded (tried " + list(report.tried) +
                     "): on a machine with nvcc run npm run build:cuda in a clone of the "
                     "repository";
    return opened;
  }
  report.description = opened.library->describe();
  report.problem = report.description.problem;
  return opened;
}

const Opened& opened() {
  static const Opened once = open();
  return once;
}

std::shared_ptr<Backend> make_cuda(int device) {
  const Opened& cuda = opened();
  const std::string& problem = cuda.report.problem;
  if (!problem.empty())
    throw Error("DEVICE_UNAVAILABLE", "[load] device cuda: " + problem);
  const size_t count = cuda.report.description.devices.size();
  if (size_t(device) >= count) {
    throw Error("DEVICE_UNAVAILABLE", "[load] device cuda:" + std::to_string(device) +
                                          ": expected 0 to " + std::to_string(count - 1) +
                                          ", found " + std::to_string(count) +
                                          " CUDA device" + (count == 1 ? "" : "s"));
  }
  return cuda.library->make_backend(device);
}

/// The number behind "cuda:", or -1.
int device_number(const std::string& text) {
  if (text.empty() || text.size() > 3) return -1;
  int n = 0;
  for (char c : text) {
    if (c < '0' || c > '9') return -1;
    n = 10 * n + (c - '0');
  }
  return n;
}

}  // namespace

const CudaReport& cuda_report() {
  return opened().report;
}

bool cuda_usable() {
  return cuda_report().problem.empty();
}

PlacedBackend make_backend(const std::string& device, const CpuOptions& cpu) {
  if (device == "cpu" || (device == "auto" && !cuda_usable()))
    return {make_cpu_backend(cpu), false};
  if (device == "cuda" || device == "auto") return {make_cuda(0), true};
  const int number = device.rfind("cuda:", 0) == 0 ? device_number(device.substr(5)) : -1;
  if (number >= 0) return {make_cuda(number), true};
  throw Error("INVALID_ARGUMENT",
              "[load] device: expected cpu, cuda, cuda:N or auto, found " + device);
}

double product_gflops(Backend& backend, DType dtype) {
  constexpr int64_t n = 8192;
  constexpr int kRuns = 4;  // the first one warms up
  const size_t bytes = size_t(n * n) * dtype_size(dtype);
  const Buffer storage = backend.allocate(3 * bytes);
  char* data = static_cast<char*>(storage.data());
  const Mat all = mat(data, dtype, 3 * n, n);
  // Numbers of some spread: zeros would draw less power and run at a higher clock.
  Rng rng(1);
  std::vector<char> values(2 * size_t(n) * dtype_size(dtype));
  for (int64_t i = 0; i < 2 * n; ++i) {
    const float x = float(rng.normal());
    const bf16 half = to_bf16(x);
    if (dtype == DType::f32) {
      std::memcpy(&values[size_t(i) * 4], &x, 4);
    } else {
      std::memcpy(&values[size_t(i) * 2], &half, 2);
    }
  }
  for (int64_t i = 0; i < 2 * n; ++i) {
    const size_t shift = size_t(i * 37 % n) * dtype_size(dtype);
    backend.upload(all.row_range(i, 1).data, values.data() + shift, values.size() / 2);
  }
  const Mat a = all.row_range(0, n), b = all.row_range(n, n), c = all.row_range(2 * n, n);
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    backend.synchronize();
    const auto begun = std::chrono::steady_clock::now();
    backend.matmul(c, a, false, b, true, 0);
    backend.synchronize();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
    if (run > 0)
      best = std::max(best, 2e-9 * double(n) * double(n) * double(n) / took.count());
  }
  return best;
}

}  // namespace s2ft
