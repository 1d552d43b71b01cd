// What every launcher of kernels is given: a device's stream, what bounds a launch,
// scratch, and a way for the small host arrays of the backend's operations to reach the
// device. Owns the stream, the scratch and the staging memory.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "backend/backend.h"
#include "core/buffer.h"
#include "core/tensor.h"
#include "cuda/repeats.h"

namespace s2ft::cuda {

/// Throws OUT_OF_MEMORY or DEVICE_UNAVAILABLE with the runtime's own message; `where`
/// names the call.
void check(cudaError_t status, const char* where);

class Products;  // cuda/products.h

class Context : public std::enable_shared_from_this<Context> {
 public:
  explicit Context(int device);
  ~Context();
  Context(const Context&) = delete;

  /// Makes the device the calling thread's own: before anything else of it is used.
  void enter() const;
  int device() const { return device_; }
  int multiprocessors() const { return multiprocessors_; }
  int capability() const { return capability_; }         // 80, 90, 100 ...
  size_t shared_limit() const { return shared_limit_; }  // bytes a block may ask for
  cudaStream_t stream() const { return stream_; }
  Products& products() { return *products_; }
  Repeats& repeats() const { return *repeats_; }

  /// Device memory, freed in the order of the stream with its last owner, which may
  /// outlive the backend. Throws OUT_OF_MEMORY.
  Buffer allocate(size_t bytes);
  /// The same without an owner: for what the context itself owns.
  void* take(size_t bytes);
  void give_back(void* data, size_t bytes) noexcept;
  DeviceMemory memory() const;
  void reset_peak() { peak_bytes_ = held_bytes_.load(); }
  /// Copies that are ordered in the stream. upload() and copy_in() leave the host's bytes
  /// free to change once they return; download() waits for its result.
  void copy_in(void* to, const void* host, size_t bytes);
  void upload(void* to, const void* host, size_t bytes);
  void download(void* host, const void* from, size_t bytes);
  void synchronize();

  /// A copy of a host array in device memory, ordered before what is launched next and
  /// kept until that has run. The host array may change as soon as this returns.
  template <class T>
  const T* to_device(const T* host, int64_t count) {
    return static_cast<const T*>(stage(host, size_t(count) * sizeof(T)));
  }
  /// The same from the staging memory, whoever asks.
  const void* stage_in_turn(const void* host, size_t bytes);

  /// What is queued from here on becomes a graph instead of being done; no other thread
  /// takes part. False where the runtime refuses.
  bool begin_capture();
  /// The graph, which is the caller's; null where it cannot be had.
  cudaGraph_t end_capture();

  /// Device memory for one operation: valid for what is launched until the next call.
  /// Throws OUT_OF_MEMORY.
  void* scratch(size_t bytes);
  /// Bytes of scratch and staging that are held now.
  size_t own_bytes() const {
    return scratch_bytes_ + 2 * staging_.half_bytes + repeats_->bytes();
  }

 private:
  // Half of the staging memory: its host side may be written again when `copied` has
  // happened.
  struct Half {
    cudaEvent_t copied = nullptr;
    bool pending = false;
  };
  struct Staging {
    char* host = nullptr;  // pinned
    char* device = nullptr;
    size_t half_bytes = 0;
  };

  const void* stage(const void* host, size_t bytes);
  /// The place of so many bytes in both sides of the staging memory.
  size_t reserve(size_t bytes);
  void grow(size_t bytes);

  int device_ = 0, multiprocessors_ = 0, capability_ = 0;
  size_t shared_limit_ = 0;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<Products> products_;
  std::unique_ptr<Repeats> repeats_;
  void* scratch_ = nullptr;
  size_t scratch_bytes_ = 0;
  // Buffers may die on another thread than the one that works.
  std::atomic<size_t> held_bytes_{0}, peak_bytes_{0};
  // Memory that is freed while a graph is captured goes afterwards.
  std::mutex freeing_;
  bool capturing_ = false;
  std::vector<void*> freed_;
  Staging staging_;
  std::vector<Staging> outgrown_;  // may still be read by what runs
  Half halves_[2];
  int half_ = 0;          // the half that is being filled
  size_t half_used_ = 0;  // bytes of it
};

}  // namespace s2ft::cuda
