// Twins of cuda/mma.cuh for the host: what the warp's lanes hold is exchanged as PTX lays
// the fragments out.
#pragma once

#include <cmath>
#include <cstdint>

namespace s2ft::cuda {

void copy_async(void* to, const void* from, bool valid);
void copy_commit();
/// Delivers the copies of all of the thread's groups but the last `left`.
void deliver_copies(int left);
template <int kLeft>
inline void copy_wait() {
  deliver_copies(kLeft);
}
void load_matrices(uint32_t (&r)[4], const void* row);
void load_transposed(uint32_t (&r)[4], const void* row);
void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
inline float fast_exp2(float x) {
  const float y = ::exp2f(x);
  return std::fabs(y) < 0x1p-126f ? 0.0f : y;
}

}  // namespace s2ft::cuda
