// The gated activation h = silu(gate) * up and its gradient.
#include "cpu/kernels/loops.h"
#include "cpu/kernels/ops.h"

namespace s2ft::S2FT_ISA {

void swiglu(Mat h, Mat gate, Mat up) {
  with_type(h.dtype, [&](auto* type) {
    using T = S2FT_TYPE_OF(type);
    spans(h.rows, h.cols, contiguous(h) && contiguous(gate) && contiguous(up),
          [&](int64_t i, int64_t begin, int64_t end) {
            T* hi = row<T>(h, i);
            const T* gi = row<T>(gate, i);
            const T* ui = row<T>(up, i);
#pragma omp simd
            for (int64_t j = begin; j < end; ++j) {
              const float g = get(gi, j);
              put(hi, j, g / (1.0f + fast_exp(-g)) * get(ui, j));
            }
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
#pragma omp simd
            for (int64_t j = begin; j < end; ++j) {
              const float g = get(gi, j), u = get(ui, j), d = get(di, j);
              const float sigmoid = 1.0f / (1.0f + fast_exp(-g));
              put(gi, j, d * u * sigmoid * (1.0f + g * (1.0f - sigmoid)));
              put(ui, j, d * g * sigmoid);
            }
          });
  });
}

}  // namespace s2ft::S2FT_ISA
