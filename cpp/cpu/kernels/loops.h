// What the element-wise and row kernels share: how work is split over threads, element
// access in f32 whatever the storage.
#pragma once

#include <omp.h>

#include <cstring>
#include <type_traits>

#include "core/tensor.h"
#include "cpu/kernels/simd.h"

namespace s2ft::S2FT_ISA {

// Opening a parallel region costs a few microseconds, about what this many elements do.
constexpr int64_t kSerialElements = 16384;

S2FT_INLINE float get(const float* p, int64_t i) {
  return p[i];
}
S2FT_INLINE float get(const bf16* p, int64_t i) {
  return to_float(p[i]);
}
S2FT_INLINE void put(float* p, int64_t i, float x) {
  p[i] = x;
}
S2FT_INLINE void put(bf16* p, int64_t i, float x) {
  // to_bf16 as a select rather than a branch.
  uint32_t u;
  std::memcpy(&u, &x, 4);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
  p[i].bits = uint16_t(x != x ? (u >> 16) | 0x40 : rounded);
}

/// Row i of a matrix as T*.
template <class T>
S2FT_INLINE T* row(const Mat& m, int64_t i) {
  return m.as<T>() + i * m.ld;
}

S2FT_INLINE bool contiguous(const Mat& m) {
  return m.ld == m.cols || m.rows <= 1;
}

/// Calls f with a null pointer of the storage type, once.
template <class F>
S2FT_INLINE void with_type(DType t, F&& f) {
  if (t == DType::f32) {
    f(static_cast<float*>(nullptr));
  } else {
    f(static_cast<bf16*>(nullptr));
  }
}
template <class F>
S2FT_INLINE void with_types(DType t, DType u, F&& f) {
  with_type(t, [&](auto* a) { with_type(u, [&](auto* b) { f(a, b); }); });
}
#define S2FT_TYPE_OF(pointer) std::remove_pointer_t<decltype(pointer)>

/// body(begin, end) over parts of [0, n), one a thread, the same for the same thread
/// count. `work` counts all elements; `unit` keeps part borders at its multiples.
template <class F>
S2FT_INLINE void split(int64_t n, int64_t work, int64_t unit, F&& body) {
  if (n <= 0) return;
  if (work < kSerialElements || n <= unit) {
    body(int64_t(0), n);
    return;
  }
#pragma omp parallel
  {
    const int64_t threads = omp_get_num_threads(), me = omp_get_thread_num();
    const int64_t units = (n + unit - 1) / unit;
    const int64_t begin = units * me / threads * unit;
    int64_t end = units * (me + 1) / threads * unit;
    if (end > n) end = n;
    if (begin < end) body(begin, end);
  }
}

/// body(i, begin, end) over every row i and column range; contiguous operands count as
/// one long row.
template <class F>
S2FT_INLINE void spans(int64_t rows, int64_t cols, bool flat, F&& body) {
  if (flat) {
    cols *= rows;
    rows = cols ? 1 : 0;
  }
  const int64_t work = rows * cols;
  if (rows < 8) {
    split(cols, work, 64, [&](int64_t begin, int64_t end) {
      for (int64_t i = 0; i < rows; ++i) body(i, begin, end);
    });
  } else {
    split(rows, work, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(i, int64_t(0), cols);
    });
  }
}

/// How many lanes a step of `lanes` covers: all of them, known to the compiler, or the
/// rest.
struct AllLanes {};
struct SomeLanes {
  int n;
};

S2FT_INLINE vf take(const float* p, AllLanes) {
  return load(p);
}
S2FT_INLINE vf take(const bf16* p, AllLanes) {
  // GCC 12 splits the generic conversion into four instructions.
#if defined(S2FT_AVX512)
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return from_bits((vu)_mm512_maskz_cvtepu16_epi32(0xffff, half) << 16);
#elif defined(S2FT_AVX2)
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return from_bits((vu)_mm256_cvtepu16_epi32(half) << 16);
#else
  return load(p);
#endif
}
template <class T>
S2FT_INLINE vf take(const T* p, SomeLanes some) {
  return load(p, some.n);
}
template <class T>
S2FT_INLINE void give(T* p, vf x, AllLanes) {
  store_result(p, x);
}
template <class T>
S2FT_INLINE void give(T* p, vf x, SomeLanes some) {
  store_result(p, x, some.n);
}

/// f(j, lanes) over [begin, end) in vectors, the last one partial.
template <class F>
S2FT_INLINE void lanes(int64_t begin, int64_t end, F&& f) {
  int64_t j = begin;
  for (; j + kLanes <= end; j += kLanes) f(j, AllLanes{});
  if (j < end) f(j, SomeLanes{int(end - j)});
}

/// The largest of n >= 1 floats.
S2FT_INLINE float row_max(const float* x, int64_t n) {
  vf m = splat(x[0]);
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) m = max(load(x + j), m);
  float result = largest(m);
  for (; j < n; ++j) result = x[j] > result ? x[j] : result;
  return result;
}

}  // namespace s2ft::S2FT_ISA
