// One AdamW step over one parameter, in the operation order of torch.optim.AdamW.
#include <cmath>

#include "cpu/kernels/loops.h"
#include "cpu/kernels/ops.h"

namespace s2ft::S2FT_ISA {

void adamw(const AdamW& u) {
  const double beta1 = u.beta1, beta2 = u.beta2;
  const double rate = u.learning_rate;
  const float decay = float(1 - rate * u.weight_decay);
  const float mix1 = float(1 - beta1), keep2 = float(beta2), mix2 = float(1 - beta2);
  const float step_size = float(rate / (1 - std::pow(beta1, double(u.step))));
  const float root2 = float(__builtin_sqrt(1 - std::pow(beta2, double(u.step))));
  const float epsilon = float(u.epsilon), gradient_scale = u.gradient_scale;
  const bool own_master = bool(u.master);
  const Mat master = own_master ? u.master : u.weight;
  const bool flat = contiguous(u.weight) && contiguous(master) &&
                    contiguous(u.gradient) && contiguous(u.first) && contiguous(u.second);
  with_type(u.weight.dtype, [&](auto* type) {
    using W = S2FT_TYPE_OF(type);
    spans(u.weight.rows, u.weight.cols, flat, [&](int64_t i, int64_t begin, int64_t end) {
      W* weight = row<W>(u.weight, i);
      float* value = row<float>(master, i);
      const float* gradient = row<float>(u.gradient, i);
      float* first = row<float>(u.first, i);
      float* second = row<float>(u.second, i);
#pragma omp simd
      for (int64_t j = begin; j < end; ++j) {
        const float g = gradient[j] * gradient_scale;
        const float m = first[j] + mix1 * (g - first[j]);
        const float v = second[j] * keep2 + mix2 * g * g;
        const float moved =
            value[j] * decay - step_size * (m / (__builtin_sqrtf(v) / root2 + epsilon));
        first[j] = m;
        second[j] = v;
        value[j] = moved;
        if (own_master) put(weight, j, moved);
      }
    });
  });
}

}  // namespace s2ft::S2FT_ISA
