// The emulated multiprocessor: runs the blocks of a launch one after another and a
// block's threads as fibers, which change places where threads wait for each other.
#pragma once

#include <cstddef>
#include <memory>

#include "runtime_api.h"
#include "vector_types.h"

namespace s2ft::cuda::emulation {

struct Launch {
  dim3 grid, block;
  size_t shared = 0;                   // bytes of dynamic shared memory
  void (*run)(const void*) = nullptr;  // one thread's work, given `body`
  std::shared_ptr<const void> body;
  const char* kernel = "";  // for messages
};

/// Limits of the emulated device, those of compute capability 8.0.
constexpr size_t kSharedLimit = 163 * 1024, kSharedDefault = 48 * 1024;
constexpr unsigned kThreadsLimit = 1024, kWarp = 32;

/// Why CUDA would refuse the launch, or cudaSuccess.
cudaError_t check_launch(const Launch& launch);

/// Runs every block. Only the device's own thread may call it (device.h).
void run_launch(const Launch& launch);

/// The order in which threads (and blocks) get their turns: 0 ascending, 1 descending,
/// any other number seeds a new random order for every turn. Results must not depend on
/// it. Starts with the environment variable S2FT_EMULATION_ORDER.
void set_order(unsigned seed);

/// Reports an error of the running kernel with its thread and ends the process.
[[noreturn]] void violation(const char* format, ...)
    __attribute__((format(printf, 1, 2)));

// -- what the device functions call ---------------------------------------------------

/// Waits until every thread of the block has come here; `place` (a pointer that stands
/// for the call in the source) must be the same for all. Returns the sum of `value`.
int block_barrier(const void* place, const char* file, int line, int value);

/// Waits until all lanes of `mask` that have not finished have come to the same
/// operation; then `resolve` runs once with what each lane brought: arguments[i] is null
/// for lanes that take no part. The arguments stay where they are until their lane goes
/// on.
using Resolve = void (*)(void* const arguments[kWarp], unsigned mask);
void warp_meet(unsigned mask, Resolve resolve, const char* operation, void* argument,
               bool orders_memory = false);

inline void resolve_nothing(void* const*, unsigned) {}

/// The running block's dynamic shared memory.
unsigned char* dynamic_shared();
size_t dynamic_shared_bytes();

/// Whether a kernel is running, and a text that names its thread.
bool in_kernel();
const char* where_text();

unsigned lane_index();

/// The running thread's number in its block.
unsigned thread_number();

/// What is special about an address that may not be touched, or null.
const char* stack_or_shared_text(const void* address);
bool on_thread_stack(const void* address);

}  // namespace s2ft::cuda::emulation
