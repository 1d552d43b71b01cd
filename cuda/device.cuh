// Pieces of kernels: conversions, and sums over a warp and a block.
#pragma once

#include <cuda_bf16.h>

#include "cuda/launch.h"

namespace s2ft::cuda {

using bf16_t = __nv_bfloat16;

__device__ inline float to_f32(float x) {
  return x;
}
__device__ inline float to_f32(bf16_t x) {
  return __bfloat162float(x);
}
template <class T>
__device__ inline T from_f32(float x);
template <>
__device__ inline float from_f32<float>(float x) {
  return x;
}
template <>
__device__ inline bf16_t from_f32<bf16_t>(float x) {
  return __float2bfloat16_rn(x);
}

/// The sum over a warp, in every lane.
template <class T>
__device__ inline T warp_sum(T x) {
  for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
  return x;
}
__device__ inline float warp_max(float x) {
  for (int lane = 16; lane > 0; lane /= 2)
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
  return x;
}

/// The sum over a block of whole warps, in every thread, always in the same order.
/// `partial` is shared memory for 32 values; it may be used again after __syncthreads().
template <class T>
__device__ inline T block_sum(T x, T* partial) {
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  x = warp_sum(x);
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  T sum = 0;
  for (int i = 0; i < warps; ++i) sum += partial[i];
  return sum;
}

/// The maximum over a block of whole warps, in every thread; the rest as block_sum.
__device__ inline float block_max(float x, float* partial) {
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  x = warp_max(x);
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  float max = partial[0];
  for (int i = 1; i < warps; ++i) max = fmaxf(max, partial[i]);
  return max;
}

}  // namespace s2ft::cuda
