// The instructions that have no CUDA C++ function, from compute capability 8.0 on:
// copies to shared memory that run in the background, and products of small matrices on
// the tensor cores. cuda/emulation/mma.h has their twins for the host.
//
// Fragments. A warp holds matrices in pieces; with g = lane / 4 and t = lane % 4, lane's
// registers are, as pairs of bf16 (the first in the low half):
//   A (16 x 16): a[0] = (g, 2t ..), a[1] = (g + 8, 2t ..), a[2] = (g, 2t + 8 ..),
//                a[3] = (g + 8, 2t + 8 ..)
//   B (16 x 8):  b0 = (2t .., g), b1 = (2t + 8 .., g)   (pairs run down a column)
//   C (16 x 8):  c[0], c[1] = (g, 2t ..), c[2], c[3] = (g + 8, 2t ..), f32
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#ifdef S2FT_CUDA_EMULATION
#include "cuda/emulation/mma.h"
#else

namespace s2ft::cuda {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/// Starts to copy 16 bytes to shared memory, or to clear them where not `valid`; `from`
/// is then not read. Both addresses are multiples of 16.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)),
      "l"(from), "r"(valid ? 16 : 0)
      : "memory");
}
/// Ends a group of the copies that this thread has started.
__device__ __forceinline__ void copy_commit() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
/// Waits until at most `kLeft` of this thread's groups are under way. Other threads see
/// the copies after a barrier.
template <int kLeft>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kLeft) : "memory");
}

/// Four 8 x 8 matrices of bf16: lane i gives the address of row i % 8 of matrix i / 8 in
/// shared memory, 16 bytes at a multiple of 16; r[m] receives (g, 2t ..) of matrix m.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
/// The same with each matrix transposed: r[m] receives (2t .., g).
__device__ __forceinline__ void load_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

/// c += a b, of bf16, summed in f32.
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4],
                                             uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// 2 to the power of x, off by at most two units in the last place; subnormal results
/// become zero.
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace s2ft::cuda
#endif

namespace s2ft::cuda {

/// Two numbers rounded to bf16, the first in the low half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  static_assert(sizeof bits == sizeof pair, "a pair of bf16 is 32 bits");
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

}  // namespace s2ft::cuda
