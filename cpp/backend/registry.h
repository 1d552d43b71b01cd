// Finds the device that a model is to live on: the CPU, or CUDA where its library and a
// device are there.
#pragma once

#include <string>

#include "backend/cuda_library.h"
#include "cpu/cpu_backend.h"

namespace s2ft {

/// What of CUDA can be used here, and what cannot.
struct CudaReport {
  std::string library;             // the path of libs2ft_cuda.so, empty when not loaded
  std::string problem;             // why no device can be used, empty when one can
  std::vector<std::string> tried;  // places where the library was looked for
  CudaDescription description;     // empty without the library
};

/// Opens the CUDA backend's library if need be (once a process). Never throws.
const CudaReport& cuda_report();

/// Whether `auto` means CUDA.
bool cuda_usable();

struct PlacedBackend {
  std::shared_ptr<Backend> backend;
  bool cuda = false;
};

/// The backend of a device: "cpu", "cuda", "cuda:1" or "auto". Throws INVALID_ARGUMENT
/// for another name and DEVICE_UNAVAILABLE, with every place tried and what to install,
/// where CUDA was asked for and cannot be used.
PlacedBackend make_backend(const std::string& device, const CpuOptions& cpu);

/// GFLOP/s of a large product, the best of some runs.
double product_gflops(Backend& backend, DType dtype);

}  // namespace s2ft
