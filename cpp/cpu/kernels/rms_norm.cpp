// RMS norm over groups of columns and its gradient.
#include "cpu/kernels/loops.h"
#include "cpu/kernels/ops.h"

namespace s2ft::S2FT_ISA {
namespace {

template <class X>
S2FT_INLINE float inverse_rms(const X* x, int64_t n, float eps) {
  vf squares = vf{};
  lanes(0, n, [&](int64_t j, auto m) {
    const vf v = take(x + j, m);
    squares = fma(v, v, squares);
  });
  return 1.0f / __builtin_sqrtf(sum(squares) / float(n) + eps);
}

// With y = x r w and r = 1 / sqrt(mean(x^2) + eps):
// dx = r (w dy - x r^2 mean(w dy x)), dw = sum of dy x r.
template <class X, class W>
S2FT_INLINE void group_backward(X* dx, bool accumulate, float* dw, const X* dy,
                                const X* x, const W* w, int64_t n, float eps) {
  vf squares = vf{}, dots = vf{};
  lanes(0, n, [&](int64_t j, auto m) {
    const vf v = take(x + j, m);
    squares = fma(v, v, squares);
    dots = fma(take(w + j, m) * take(dy + j, m), v, dots);
  });
  const float r = 1.0f / __builtin_sqrtf(sum(squares) / float(n) + eps);
  const float k = r * r * sum(dots) / float(n);
  lanes(0, n, [&](int64_t j, auto m) {
    const vf v = take(x + j, m), d = take(dy + j, m);
    if (dw) give(dw + j, fma(d * v, splat(r), take(dw + j, m)), m);
    vf out = r * (take(w + j, m) * d - k * v);
    if (accumulate) out += take(dx + j, m);
    give(dx + j, out, m);
  });
}

}  // namespace

void rms_norm(Mat y, Mat x, Mat w, float eps) {
  const int64_t group = w.cols;
  with_types(x.dtype, w.dtype, [&](auto* a, auto* b) {
    using X = S2FT_TYPE_OF(a);
    using W = S2FT_TYPE_OF(b);
    const W* weight = w.as<W>();
    split(x.rows, x.count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t g = 0; g < x.cols; g += group) {
          const X* xi = row<X>(x, i) + g;
          X* yi = row<X>(y, i) + g;
          const float r = inverse_rms(xi, group, eps);
          lanes(0, group, [&](int64_t j, auto m) {
            give(yi + j, take(xi + j, m) * r * take(weight + j, m), m);
          });
        }
      }
    });
  });
}

void rms_norm_backward(Mat dx, bool accumulate, Mat dw, Mat dy, Mat x, Mat w, float eps,
                       float* scratch) {
  const int64_t group = w.cols;
  int used = 0;
  with_types(x.dtype, w.dtype, [&](auto* a, auto* b) {
    using X = S2FT_TYPE_OF(a);
    using W = S2FT_TYPE_OF(b);
    const W* weight = w.as<W>();
#pragma omp parallel if (x.count() >= kSerialElements)
    {
      const int64_t threads = omp_get_num_threads(), me = omp_get_thread_num();
      float* partial = dw ? scratch + me * group : nullptr;
      if (partial) std::memset(partial, 0, size_t(group) * sizeof(float));
      const int64_t begin = x.rows * me / threads, end = x.rows * (me + 1) / threads;
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t g = 0; g < x.cols; g += group) {
          group_backward(row<X>(dx, i) + g, accumulate, partial, row<X>(dy, i) + g,
                         row<X>(x, i) + g, weight, group, eps);
        }
      }
      if (me == 0) used = int(threads);
    }
  });
  if (!dw) return;
  float* total = dw.as<float>();
  for (int t = 0; t < used; ++t) {
    const float* partial = scratch + t * group;
#pragma omp simd
    for (int64_t j = 0; j < group; ++j) total[j] += partial[j];
  }
}

}  // namespace s2ft::S2FT_ISA
