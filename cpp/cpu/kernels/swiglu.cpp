// The gated activation h = silu(gate) * up and its gradient.
#include "cpu/kernels/loops.h"
#include "cpu/kernels/ops.h"

namespace s2ft::S2FT_ISA {

namespace {

/// Within 3 units in the last place; 2e-38 rather than less below -87.
S2FT_INLINE vf sigmoid(vf x) {
#if defined(S2FT_AVX512)
  // One Newton step from 14 bits takes a third of a division's time. The bound keeps its
  // factors finite; it comes first, so that a NaN stays.
  const vf d = 1.0f + exp(min(splat(87.0f), -x));
  const vf guess = (vf)_mm512_maskz_rcp14_ps(0xffff, (__m512)d);
  return guess * fma(-d, guess, splat(2.0f));
#else
  return 1.0f / (1.0f + exp(-x));
#endif
}

}  // namespace

void swiglu(Mat h, Mat gate, Mat up) {
  with_type(h.dtype, [&](auto* type) {
    using T = S2FT_TYPE_OF(type);
    spans(h.rows, h.cols, contiguous(h) && contiguous(gate) && contiguous(up),
          [&](int64_t i, int64_t begin, int64_t end) {
            T* hi = row<T>(h, i);
            const T* gi = row<T>(gate, i);
            const T* ui = row<T>(up, i);
            lanes(begin, end, [&](int64_t j, auto n) {
              const vf g = take(gi + j, n);
              give(hi + j, g * sigmoid(g) * take(ui + j, n), n);
            });
          });
  });
}

void swiglu_backward(Mat gate, Mat up, Mat dh) {
  with_type(dh.dtype, [&](auto* type) {
    using T = S2FT_TYPE_OF(type);
    spans(dh.rows, dh.cols, contiguous(dh) && contiguous(gate) && contiguous(up),
          [&](int64_t i, int64_t begin, int64_t end) {
            T* gi = row<T>(gate, i);
            T* ui = row<T>(up, i);
            const T* di = row<T>(dh, i);
            lanes(begin, end, [&](int64_t j, auto n) {
              const vf g = take(gi + j, n), u = take(ui + j, n), d = take(di + j, n);
              const vf s = sigmoid(g), ds = d * s;
              give(gi + j, ds * u * (1.0f + g * (1.0f - s)), n);
              give(ui + j, ds * g, n);
            });
          });
  });
}

}  // namespace s2ft::S2FT_ISA
