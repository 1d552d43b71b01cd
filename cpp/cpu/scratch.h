// Scratch: temporary host memory that outlives single operations, so that steady state
// allocates nothing. The pool owns idle blocks; a lease owns its block until it ends.
#pragma once

#include <cstddef>
#include <mutex>
#include <vector>

#include "core/buffer.h"

namespace s2ft {

/// Uninitialised, 64-byte aligned host memory; large blocks are mapped on their own and
/// ask for huge pages. Throws OUT_OF_MEMORY with the bytes asked for.
Buffer allocate_host(size_t bytes);

/// Thread-safe.
class ScratchPool {
 public:
  class Lease {
   public:
    Lease(ScratchPool& pool, Buffer buffer) : pool_(&pool), buffer_(std::move(buffer)) {}
    Lease(Lease&&) = default;
    ~Lease();
    void* data() const { return buffer_.data(); }
    template <class T>
    T* as() const {
      return static_cast<T*>(buffer_.data());
    }

   private:
    ScratchPool* pool_;
    Buffer buffer_;
  };

  /// At least `bytes` bytes, uninitialised.
  Lease take(size_t bytes);

 private:
  std::mutex mutex_;
  std::vector<Buffer> idle_;
};

}  // namespace s2ft
