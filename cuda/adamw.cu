// AdamW over all parameters in one launch, in the operation order of torch.optim.AdamW.
#include <cmath>
#include <vector>

#include "backend/backend.h"
#include "cuda/ops.h"
#include "cuda/spans.cuh"

namespace s2ft::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kChunk = 2048;

struct Update {
  void* weight;
  float *master, *gradient, *first, *second;
  int64_t cols, weight_ld, master_ld, count, first_chunk;
  float decay, mix1, keep2, mix2, step_size, root2, epsilon, gradient_scale;
  bool bf16, own_master;
};

Update update_of(const AdamW& u, int64_t first_chunk) {
  Update out{};
  out.weight = u.weight.data;
  out.own_master = bool(u.master);
  const Mat master = out.own_master ? u.master : u.weight;
  out.master = master.as<float>();
  out.master_ld = master.ld;
  out.gradient = u.gradient.as<float>();
  out.first = u.first.as<float>();
  out.second = u.second.as<float>();
  out.cols = u.weight.cols;
  out.weight_ld = u.weight.ld;
  out.count = u.weight.count();
  out.first_chunk = first_chunk;
  out.decay = float(1 - u.learning_rate * u.weight_decay);
  out.mix1 = float(1 - u.beta1);
  out.keep2 = float(u.beta2);
  out.mix2 = float(1 - u.beta2);
  out.step_size = float(u.learning_rate / (1 - std::pow(u.beta1, double(u.step))));
  out.root2 = float(std::sqrt(1 - std::pow(u.beta2, double(u.step))));
  out.epsilon = float(u.epsilon);
  out.gradient_scale = u.gradient_scale;
  out.bf16 = u.weight.dtype == DType::bf16;
  return out;
}

/// What gradients are scaled by; negative: there is no update.
__device__ float clip_factor(const Clipping& clipping) {
  if (!clipping.squares) return 1;
  const double norm = sqrt(clipping.squares[0]);
  if (!(norm < HUGE_VAL) || !(clipping.squares[1] < HUGE_VAL)) return -1;
  if (clipping.max_norm <= 0) return 1;
  return float(fmin(1.0, clipping.max_norm / (norm + 1e-6)));
}

/// A block updates one chunk of one parameter.
__global__ void adamw_kernel(const Update* updates, int count, Clipping clipping) {
  const float factor = clip_factor(clipping);
  if (factor < 0) return;
  // The last parameter that begins at or before this chunk.
  int low = 0, high = count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (updates[middle].first_chunk <= int64_t(blockIdx.x)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const Update u = updates[low];
  const float scale = u.gradient_scale * factor;
  const int64_t begin = (int64_t(blockIdx.x) - u.first_chunk) * kChunk;
  const int64_t end = begin + kChunk < u.count ? begin + kChunk : u.count;
  for (int64_t e = begin + threadIdx.x; e < end; e += kThreads) {
    const int64_t i = e / u.cols, j = e % u.cols;
    float* value = u.master + i * u.master_ld + j;
    const float g = u.gradient[e] * scale;
    const float m = u.first[e] + u.mix1 * (g - u.first[e]);
    const float v = u.second[e] * u.keep2 + u.mix2 * g * g;
    const float moved =
        *value * u.decay - u.step_size * (m / (sqrtf(v) / u.root2 + u.epsilon));
    u.first[e] = m;
    u.second[e] = v;
    *value = moved;
    if (!u.own_master) continue;
    const int64_t at = i * u.weight_ld + j;
    if (u.bf16) {
      static_cast<bf16_t*>(u.weight)[at] = from_f32<bf16_t>(moved);
    } else {
      static_cast<float*>(u.weight)[at] = moved;
    }
  }
}

}  // namespace

void adamw(Context& context, const AdamW* updates, int count, Clipping clipping) {
  std::vector<Update> table;
  int64_t chunks = 0;
  for (int i = 0; i < count; ++i) {
    if (updates[i].weight.count() == 0) continue;
    table.push_back(update_of(updates[i], chunks));
    chunks += (table.back().count + kChunk - 1) / kChunk;
  }
  if (table.empty()) return;
  const Update* on_device = context.to_device(table.data(), int64_t(table.size()));
  launch(context, adamw_kernel, dim3(unsigned(chunks)), dim3(kThreads), 0, on_device,
         int(table.size()), clipping);
}

}  // namespace s2ft::cuda
