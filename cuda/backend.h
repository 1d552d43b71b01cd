// The CUDA backend.
#pragma once

#include <memory>

#include "backend/cuda_library.h"

namespace s2ft::cuda {

/// Throws DEVICE_UNAVAILABLE when there is no such device or it cannot be used.
std::shared_ptr<Backend> make_backend(int device);

/// Devices, versions and libraries. Never throws.
CudaDescription describe();

}  // namespace s2ft::cuda
