// What the registers alone can do: multiply-adds that wait for no memory.
#include "cpu/kernels/micro_gemm.h"
#include "cpu/kernels/ops.h"

namespace s2ft::S2FT_ISA {

namespace {

// Enough independent sums to hide a multiply-add's latency, few enough for the registers.
constexpr int kSums = 12;

template <bool kDot>
double run(int64_t rounds) {
  // The compiler must not know the numbers, nor that they are all alike.
  volatile float zero = 0;
  vf sums[kSums];
#pragma GCC unroll 12
  for (int i = 0; i < kSums; ++i) sums[i] = splat(zero);
  const vf a = splat(zero), b = splat(zero);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) sums[i] = multiply_add<kDot>(a, b, sums[i]);
  }
  vf total{};
#pragma GCC unroll 12
  for (int i = 0; i < kSums; ++i) total += sums[i];
  return double(sum(total));
}

}  // namespace

double register_products(bool dot, int64_t rounds) {
  const bool pairs = dot && kDotBf16;
  const double result = pairs ? run<true>(rounds) : run<false>(rounds);
  return result + 2.0 * kSums * kLanes * (pairs ? 2 : 1) * double(rounds);
}

}  // namespace s2ft::S2FT_ISA
