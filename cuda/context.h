// What every launcher of kernels is given: a device's stream, what bounds a launch,
// scratch, and a way for the small host arrays of the backend's operations to reach the
// device.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "core/tensor.h"

namespace s2ft::cuda {

/// Throws OUT_OF_MEMORY or DEVICE_UNAVAILABLE with the runtime's own message; `where`
/// names the call.
void check(cudaError_t status, const char* where);

class Products;  // cuda/products.h

class Context {
 public:
  explicit Context(int device);
  ~Context();
  Context(const Context&) = delete;

  int device() const { return device_; }
  int multiprocessors() const { return multiprocessors_; }
  int capability() const { return capability_; }         // 80, 90, 100 ...
  size_t shared_limit() const { return shared_limit_; }  // bytes a block may ask for
  cudaStream_t stream() const { return stream_; }
  Products& products() { return *products_; }

  /// A copy of a host array in device memory, ordered before what is launched next and
  /// kept until that has run. The host array may change as soon as this returns.
  template <class T>
  const T* to_device(const T* host, int64_t count) {
    return static_cast<const T*>(stage(host, size_t(count) * sizeof(T)));
  }
  /// Device memory for one operation: valid for what is launched until the next call.
  /// Throws OUT_OF_MEMORY.
  void* scratch(size_t bytes);

 private:
  const void* stage(const void* host, size_t bytes);

  int device_ = 0, multiprocessors_ = 0, capability_ = 0;
  size_t shared_limit_ = 0;
  cudaStream_t stream_ = nullptr;
  Products* products_ = nullptr;
  struct Memory;
  Memory* memory_ = nullptr;
};

}  // namespace s2ft::cuda
