// Alone knows where the CUDA backend lies and whether it was built. The library stays
// open for the process's life: its code may run as long as any backend of it.
#include "backend/registry.h"

#include <dlfcn.h>

#include <cstdlib>

#include "core/error.h"

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
  return {own_folder() + "/" + kFile};
}

std::string list(const std::vector<std::string>& lines) {
  std::string out;
  for (const std::string& line : lines) out += "\n  tried " + line;
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
    report.problem = "the CUDA backend, " + std::string(kFile) +
                     ", could not be loaded: on a machine with nvcc run npm run "
                     "build:cuda in a clone of the repository" +
                     list(report.tried);
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
    throw Error("DEVICE_UNAVAILABLE",
                "[load] device cuda:" + std::to_string(device) + ": expected 0 to " +
                    std::to_string(count - 1) + ", found " + std::to_string(count) +
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

std::shared_ptr<Backend> make_backend(const std::string& device, const CpuOptions& cpu) {
  if (device == "cpu" || (device == "auto" && !cuda_usable()))
    return make_cpu_backend(cpu);
  if (device == "cuda" || device == "auto") return make_cuda(0);
  const int number =
      device.rfind("cuda:", 0) == 0 ? device_number(device.substr(5)) : -1;
  if (number >= 0) return make_cuda(number);
  throw Error("INVALID_ARGUMENT",
              "[load] device: expected cpu, cuda, cuda:N or auto, found " + device);
}

}  // namespace s2ft
