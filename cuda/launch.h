// The one place where kernels are started, so that the same sources also run on a host
// that emulates the device (cuda/emulation).
#pragma once

#include "cuda/context.h"

namespace s2ft::cuda {

/// Whether a kernel is to be started now (Repeats).
template <class... P>
bool proceed(const Context& context, void (*kernel)(P...), dim3 grid, dim3 block,
             size_t shared, const P&... parameters) {
  Repeats& repeats = context.repeats();
  return !repeats.active() || repeats.proceed(reinterpret_cast<const void*>(kernel), grid,
                                              block, shared, parameters...);
}

}  // namespace s2ft::cuda

#ifdef S2FT_CUDA_EMULATION
#include "cuda/emulation/launch.h"
#else

// Dynamic shared memory of a kernel, `launch`'s `shared` bytes of it, as an array of T.
#define S2FT_DYNAMIC_SHARED(T, name)                       \
  extern __shared__ __align__(16) unsigned char name##_[]; \
  T* name = reinterpret_cast<T*>(name##_)

namespace s2ft::cuda {

/// Runs kernel(args...) on the context's stream with `shared` bytes of dynamic shared
/// memory. Throws DEVICE_UNAVAILABLE when the launch is refused.
template <class... P, class... A>
void launch(const Context& context, void (*kernel)(P...), dim3 grid, dim3 block,
            size_t shared, A... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (!proceed<P...>(context, kernel, grid, block, shared, P(args)...)) return;
  if (shared > 48 * 1024) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               int(shared)),
          "cudaFuncSetAttribute");
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = context.stream();
  check(cudaLaunchKernelEx(&config, kernel, P(args)...), "launch");
}

}  // namespace s2ft::cuda
#endif
