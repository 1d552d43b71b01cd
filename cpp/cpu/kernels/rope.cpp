// Rotary position embedding in the half-split layout of the LLaMA checkpoints.
#include "cpu/kernels/loops.h"
#include "cpu/kernels/ops.h"

namespace s2ft::S2FT_ISA {

void rope(Mat x, const int32_t* positions, Mat cos, Mat sin, int head_dim, bool inverse) {
  const int64_t half = head_dim / 2;
  const float direction = inverse ? -1.0f : 1.0f;
  with_type(x.dtype, [&](auto* type) {
    using X = S2FT_TYPE_OF(type);
    split(x.rows, x.count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const float* c = row<float>(cos, positions[i]);
        const float* s = row<float>(sin, positions[i]);
        for (int64_t h = 0; h < x.cols; h += head_dim) {
          X* low = row<X>(x, i) + h;
          X* high = low + half;
          lanes(0, half, [&](int64_t j, auto n) {
            const vf a = take(low + j, n), b = take(high + j, n);
            const vf cj = take(c + j, n), sj = direction * take(s + j, n);
            give(low + j, a * cj - b * sj, n);
            give(high + j, b * cj + a * sj, n);
          });
        }
      }
    });
  });
}

}  // namespace s2ft::S2FT_ISA
