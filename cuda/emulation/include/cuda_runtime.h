// Stands in for CUDA's cuda_runtime.h when kernels are compiled for the host: keywords,
// vector types, built-in variables and functions, and the part of the runtime API that
// this project uses. What is emulated and what is not: cuda/emulation/launch.h.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define S2FT_EMULATED_CUDA_RUNTIME 1
#define CUDART_VERSION 13000

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
// Thread-local, because the loader then keeps all such arrays of this library in one
// piece of memory, which is poisoned before each block.
#define __shared__ static thread_local

#include "device_functions.h"
#include "runtime_api.h"
#include "vector_types.h"
