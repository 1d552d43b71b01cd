// Built-in variables and functions of device code, emulated.
#pragma once

#include <algorithm>

#include "cuda/emulation/block.h"

// Set for the running thread whenever the emulation changes it.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// -- barriers -----------------------------------------------------------------------
#define S2FT_BLOCK_BARRIER(value)                                                 \
  [](int x) {                                                                     \
    static const char place = 0;                                                  \
    return ::s2ft::cuda::emulation::block_barrier(&place, __FILE__, __LINE__, x); \
  }(value)
#define __syncthreads() ((void)S2FT_BLOCK_BARRIER(0))
#define __syncthreads_count(predicate) S2FT_BLOCK_BARRIER((predicate) ? 1 : 0)
#define __syncthreads_or(predicate) (S2FT_BLOCK_BARRIER((predicate) ? 1 : 0) != 0)
#define __syncthreads_and(predicate) (S2FT_BLOCK_BARRIER((predicate) ? 0 : 1) == 0)

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  ::s2ft::cuda::emulation::warp_meet(mask, ::s2ft::cuda::emulation::resolve_nothing,
                                     "__syncwarp", &mask, true);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// -- exchange within a warp ---------------------------------------------------------
namespace s2ft::cuda::emulation {

template <class T>
struct Shuffle {
  T value;
  unsigned source;  // lane; kWarp or more: none
};

template <class T>
void resolve_shuffle(void* const arguments[kWarp], unsigned) {
  T found[kWarp];
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    const auto* own = static_cast<const Shuffle<T>*>(arguments[lane]);
    if (!own) continue;
    const void* other = own->source < kWarp ? arguments[own->source] : nullptr;
    // A lane that takes no part has no value: what is read from it is undefined.
    std::memset(static_cast<void*>(&found[lane]), 0xff, sizeof(T));
    if (other) found[lane] = static_cast<const Shuffle<T>*>(other)->value;
  }
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (arguments[lane]) static_cast<Shuffle<T>*>(arguments[lane])->value = found[lane];
  }
}

template <class T>
T shuffle(unsigned mask, T value, unsigned source, const char* name) {
  Shuffle<T> own{value, source};
  warp_meet(mask, resolve_shuffle<T>, name, &own);
  return own.value;
}

inline void resolve_ballot(void* const arguments[kWarp], unsigned) {
  unsigned votes = 0;
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (arguments[lane] && *static_cast<unsigned*>(arguments[lane])) votes |= 1u << lane;
  }
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (arguments[lane]) *static_cast<unsigned*>(arguments[lane]) = votes;
  }
}

template <class T>
void resolve_sum(void* const arguments[kWarp], unsigned) {
  T sum = 0;
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (arguments[lane]) sum += *static_cast<T*>(arguments[lane]);
  }
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (arguments[lane]) *static_cast<T*>(arguments[lane]) = sum;
  }
}

}  // namespace s2ft::cuda::emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const unsigned lane = s2ft::cuda::emulation::lane_index(),
                 segment = lane & ~(width - 1u);
  return s2ft::cuda::emulation::shuffle(mask, value, segment + (source & (width - 1)),
                                        "__shfl_sync");
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const unsigned lane = s2ft::cuda::emulation::lane_index(), source = lane ^ bits;
  // Lanes of a later segment cannot be read; an own value comes back.
  const bool outside = source >= (lane & ~(width - 1u)) + width;
  return s2ft::cuda::emulation::shuffle(mask, value, outside ? lane : source,
                                        "__shfl_xor_sync");
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = s2ft::cuda::emulation::lane_index();
  const bool outside = (lane & (width - 1u)) < delta;
  return s2ft::cuda::emulation::shuffle(mask, value, outside ? lane : lane - delta,
                                        "__shfl_up_sync");
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = s2ft::cuda::emulation::lane_index();
  const bool outside = (lane & (width - 1u)) + delta >= unsigned(width);
  return s2ft::cuda::emulation::shuffle(mask, value, outside ? lane : lane + delta,
                                        "__shfl_down_sync");
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  unsigned vote = predicate ? 1 : 0;
  s2ft::cuda::emulation::warp_meet(mask, s2ft::cuda::emulation::resolve_ballot,
                                   "__ballot_sync", &vote);
  return vote;
}
inline int __any_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, !predicate) == 0;
}
template <class T>
T __reduce_add_sync(unsigned mask, T value) {
  s2ft::cuda::emulation::warp_meet(mask, s2ft::cuda::emulation::resolve_sum<T>,
                                   "__reduce_add_sync", &value);
  return value;
}

// -- atomics: threads change places only where they wait ------------------------------
#define S2FT_UNWATCHED __attribute__((no_sanitize("thread"), noinline))
template <class T>
S2FT_UNWATCHED T atomicAdd(T* at, T value) {
  const T before = *at;
  *at = before + value;
  return before;
}
S2FT_UNWATCHED inline int atomicAdd(int* at, int value) {
  return atomicAdd<int>(at, value);
}
S2FT_UNWATCHED inline unsigned atomicAdd(unsigned* at, unsigned value) {
  return atomicAdd<unsigned>(at, value);
}
S2FT_UNWATCHED inline float atomicAdd(float* at, float value) {
  return atomicAdd<float>(at, value);
}
S2FT_UNWATCHED inline double atomicAdd(double* at, double value) {
  return atomicAdd<double>(at, value);
}
template <class T>
S2FT_UNWATCHED T atomicMax(T* at, T value) {
  const T before = *at;
  *at = std::max(before, value);
  return before;
}
template <class T>
S2FT_UNWATCHED T atomicMin(T* at, T value) {
  const T before = *at;
  *at = std::min(before, value);
  return before;
}
template <class T>
S2FT_UNWATCHED T atomicExch(T* at, T value) {
  const T before = *at;
  *at = value;
  return before;
}
template <class T>
S2FT_UNWATCHED T atomicOr(T* at, T value) {
  const T before = *at;
  *at = before | value;
  return before;
}
template <class T>
S2FT_UNWATCHED T atomicCAS(T* at, T compare, T value) {
  const T before = *at;
  if (before == compare) *at = value;
  return before;
}

// -- memory hints ---------------------------------------------------------------------
template <class T>
T __ldg(const T* at) {
  return *at;
}
template <class T>
T __ldcs(const T* at) {
  return *at;
}
template <class T>
T __ldcg(const T* at) {
  return *at;
}
template <class T>
void __stcs(T* at, T value) {
  *at = value;
}
template <class T>
void __stcg(T* at, T value) {
  *at = value;
}

// -- arithmetic -----------------------------------------------------------------------
// Macros, since the C library declares functions of these names.
#define __expf(x) (::expf(x))
#define __exp10f(x) (::powf(10.0f, x))
#define __logf(x) (::logf(x))
#define __log2f(x) (::log2f(x))
#define __powf(x, y) (::powf(x, y))
#define __sinf(x) (::sinf(x))
#define __cosf(x) (::cosf(x))
inline float rsqrtf(float x) {
  return 1.0f / ::sqrtf(x);
}
inline double rsqrt(double x) {
  return 1.0 / ::sqrt(x);
}
inline float __frsqrt_rn(float x) {
  return float(1.0 / ::sqrt(double(x)));
}
inline float __frcp_rn(float x) {
  return 1.0f / x;
}
inline float __fdividef(float x, float y) {
  return x / y;
}
inline float __fdiv_rn(float x, float y) {
  return x / y;
}
inline float __fadd_rn(float x, float y) {
  return x + y;
}
inline float __fsub_rn(float x, float y) {
  return x - y;
}
inline float __fmul_rn(float x, float y) {
  return x * y;
}
inline float __fmaf_rn(float x, float y, float z) {
  return ::fmaf(x, y, z);
}
inline float __fsqrt_rn(float x) {
  return ::sqrtf(x);
}
inline float __saturatef(float x) {
  return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f;
}
inline float fdividef(float x, float y) {
  return x / y;
}

#define S2FT_MIN_MAX(T)    \
  inline T min(T a, T b) { \
    return b < a ? b : a;  \
  }                        \
  inline T max(T a, T b) { \
    return a < b ? b : a;  \
  }
S2FT_MIN_MAX(int)
S2FT_MIN_MAX(unsigned)
S2FT_MIN_MAX(long)
S2FT_MIN_MAX(unsigned long)
S2FT_MIN_MAX(long long)
S2FT_MIN_MAX(unsigned long long)
#undef S2FT_MIN_MAX
inline float min(float a, float b) {
  return ::fminf(a, b);
}
inline float max(float a, float b) {
  return ::fmaxf(a, b);
}
inline double min(double a, double b) {
  return ::fmin(a, b);
}
inline double max(double a, double b) {
  return ::fmax(a, b);
}

template <class To, class From>
inline To s2ft_emulation_bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}
inline unsigned __float_as_uint(float x) {
  return s2ft_emulation_bits<unsigned>(x);
}
inline int __float_as_int(float x) {
  return s2ft_emulation_bits<int>(x);
}
inline float __uint_as_float(unsigned x) {
  return s2ft_emulation_bits<float>(x);
}
inline float __int_as_float(int x) {
  return s2ft_emulation_bits<float>(x);
}
inline float __int2float_rn(int x) {
  return float(x);
}
inline float __uint2float_rn(unsigned x) {
  return float(x);
}
inline int __float2int_rn(float x) {
  return int(::lrintf(x));
}

inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline int __clz(int x) {
  return x ? __builtin_clz(unsigned(x)) : 32;
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return unsigned((uint64_t(a) * b) >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = uint64_t(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned pick = selector >> (4 * i);
    unsigned byte = unsigned(bytes >> (8 * (pick & 7))) & 0xff;
    if (pick & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << (8 * i);
  }
  return result;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return unsigned(((uint64_t(high) << 32 | low) << (shift & 31)) >> 32);
}
[[noreturn]] inline void __trap() {
  s2ft::cuda::emulation::violation("__trap()");
}
#define __builtin_assume(condition) ((void)0)
