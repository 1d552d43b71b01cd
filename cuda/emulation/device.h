// The emulated device: its memory, which the host may not touch, and the thread on which
// it works.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "cuda_runtime.h"

namespace s2ft::cuda::emulation {

/// Runs `work` on the device's thread with device memory open, and waits for it.
void on_device(const std::function<void()>& work);

struct Range {
  const char* begin;
  size_t bytes;
  bool contains(const void* at, size_t n) const {
    const char* p = static_cast<const char*>(at);
    return p >= begin && n <= bytes && size_t(p - begin) <= bytes - n;
  }
};
/// The allocation that holds `at`; begin is null where there is none. Memory of the
/// device and pinned memory of the host; safe only while the device works or the host
/// waits.
Range device_allocation(const void* at);
Range pinned_allocation(const void* at);
bool in_device_arena(const void* at);

/// Bytes in allocations now, and the most there were. For tests of memory plans.
size_t allocated_bytes();
size_t peak_allocated_bytes();
void reset_peak();

/// What the host has asked for so far, by any thread.
struct Calls {
  uint64_t kernels = 0;  // started by themselves or captured
  uint64_t graphs = 0;   // started
  uint64_t waits = 0;    // for a stream or the device
};
Calls& calls();

/// What the runtime refuses from now on, for tests of what happens then.
enum class Refused { nothing, capture, instantiation, launch };
void refuse_graphs(Refused what);

/// Appends work to a stream. It runs when something waits for it.
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work);
/// Runs everything that is queued.
void drain_all();

cudaError_t report(cudaError_t status);

}  // namespace s2ft::cuda::emulation
