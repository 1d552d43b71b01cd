// What libs2ft_cuda.so, the CUDA backend, hands to the library that opens it. Both are
// compiled from the same headers; `interface` tells when they were not.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace s2ft {

struct CudaDevice {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  size_t total_bytes = 0, free_bytes = 0;
};

/// A library that the CUDA backend opens at run time.
struct CudaPiece {
  std::string name;                // "cuBLASLt"
  std::string path;                // empty when it was not found
  std::string purpose;             // what it serves, and what serves without it
  std::string remedy;              // what to install
  std::vector<std::string> tried;  // every place, in order
};

struct CudaDescription {
  int driver = 0, runtime = 0;  // as CUDA counts: 13000 is 13.0; 0: no driver
  std::string problem;          // why no device can be used; empty when one can
  std::vector<CudaDevice> devices;
  std::vector<CudaPiece> pieces;
};

struct CudaLibrary {
  const char* interface;  // of the headers it was compiled with
  CudaDescription (*describe)();
  /// Throws DEVICE_UNAVAILABLE when there is no such device.
  std::shared_ptr<Backend> (*make_backend)(int device);
};

/// The one symbol that the library exports.
using CudaEntry = const CudaLibrary* (*)();
inline constexpr const char* kCudaEntry = "s2ft_cuda_library";

}  // namespace s2ft
