// Runs this project's kernels on the host, so that they can be tested where no GPU is.
// Sources are compiled as C++ with -DS2FT_CUDA_EMULATION and cuda/emulation/include first
// among the include folders; cuda/launch.h then takes `launch` from here.
//
// What it does
// - A block's threads are fibers of one host thread: they change places at
//   __syncthreads, in __shfl_*_sync, votes, __syncwarp and the warp operations of mma.h.
//   A thread that leaves the kernel while others wait, threads that meet at different
//   barriers, lanes that disagree about an operation, blocks that cannot go on: errors
//   with the place and the thread.
// - Device memory is closed to the host; every allocation ends at a page that cannot be
//   touched, and freed memory stays closed. The end of dynamic shared memory is guarded
//   too. Fresh device memory, and shared memory before each block, holds NaN.
// - Streams, events and captured graphs keep their order, but work runs only when
//   something waits for it: a missing wait, or an input changed too early, shows.
// - cp.async delivers when the thread waits for it, and leaves NaN until then.
// - S2FT_EMULATION_ORDER=1, 2, 3 ...: threads and blocks run in other orders.
//   S2FT_EMULATION_EAGER=1: work runs at once (for a debugger).
//   S2FT_EMULATION_MEMORY: bytes of the device; S2FT_EMULATION_DEVICES: their number.
// - With -fsanitize=thread among the compile options of the kernels (and not at linking),
//   every access of a kernel is looked at: races between threads of a block and between
//   blocks, reads of memory that nothing has written, accesses outside of allocations
//   (watch.cpp).
// What it does not do
// - Time: nothing here tells how fast a kernel is. Registers, occupancy, coalescing and
//   bank conflicts do not exist.
// - Threads do not run between their waiting points in any interleaving; a kernel that
//   polls memory for another thread hangs. Blocks run one after another.
// - Arithmetic is the host's: fused multiply-adds, exp2f, rsqrtf and the tensor cores'
//   sums differ in the last bits.
// - PTX, cooperative groups, clusters, TMA, wgmma, textures: not there.
#pragma once

#include <memory>
#include <tuple>
#include <utility>

#include "cuda/context.h"
#include "cuda/emulation/block.h"
#include "cuda/emulation/device.h"

#define S2FT_DYNAMIC_SHARED(T, name) \
  T* name = reinterpret_cast<T*>(::s2ft::cuda::emulation::dynamic_shared())

namespace s2ft::cuda {

namespace emulation {

/// One thread's call. Nobody watches how it takes the parameters, which lie on the host.
template <class... P, size_t... I>
__attribute__((no_sanitize("thread"))) void call(void (*kernel)(P...),
                                                 const std::tuple<P...>& values,
                                                 std::index_sequence<I...>) {
  kernel(std::get<I>(values)...);
}

template <class... P>
struct Body {
  void (*kernel)(P...);
  std::tuple<P...> values;
  __attribute__((no_sanitize("thread"))) static void run(const void* body) {
    const Body& b = *static_cast<const Body*>(body);
    call(b.kernel, b.values, std::index_sequence_for<P...>());
  }
};

template <class... P>
cudaError_t start(cudaStream_t stream, void (*kernel)(P...), dim3 grid, dim3 block,
                  size_t shared, const char* name, P... parameters) {
  Launch launch;
  launch.grid = grid;
  launch.block = block;
  launch.shared = shared;
  launch.kernel = name;
  const cudaError_t status = check_launch(launch);
  if (status != cudaSuccess) return report(status);
  launch.run = Body<P...>::run;
  launch.body =
      std::make_shared<Body<P...>>(Body<P...>{kernel, std::tuple<P...>(parameters...)});
  ++calls().kernels;
  return enqueue(stream, [launch] { run_launch(launch); });
}

}  // namespace emulation

/// As in cuda/launch.h.
template <class... P, class... A>
void launch(const Context& context, void (*kernel)(P...), dim3 grid, dim3 block,
            size_t shared, A... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (!proceed<P...>(context, kernel, grid, block, shared, P(args)...)) return;
  check(emulation::start<P...>(context.stream(), kernel, grid, block, shared,
                               __PRETTY_FUNCTION__, P(args)...),
        "launch");
}

}  // namespace s2ft::cuda
