// Attention forward: tiles of queries against tiles of keys with a running softmax, so
// that no score matrix exists (flash attention), in bf16 on the tensor cores. Sequences
// with few queries and many keys (decoding) are split over their keys; the parts are put
// together in a fixed order that depends on the sequence alone.
#include <cmath>

#include "core/error.h"
#include "cuda/attention.h"
#include "cuda/attention_plan.h"

namespace s2ft::cuda {

namespace {

/// Results of parts of the keys: sums of weights times values (., head_dim), the largest
/// score in powers of two, the sum of weights.
struct Partials {
  float *sums, *peak, *mass;
};

/// One warp's running softmax over its kM tiles of 16 rows; a lane has rows g and g + 8
/// of each.
template <int D, int kM>
struct Softmax {
  float o[kM][D / 8][4];
  float peak[kM][2], mass[kM][2];  // mass: of the lane's own columns
  int last[kM][2];                 // the last key that the row sees

  __device__ __forceinline__ void begin() {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      clear(o[m]);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        peak[m][h] = -INFINITY;
        mass[m][h] = 0;
      }
    }
  }

  /// Turns scores of the keys from `key` on into weights, and moves sums to the new
  /// peaks.
  __device__ __forceinline__ void step(float (&s)[kM][8][4], int key, bool masked,
                                       int window, float factor) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float top = peak[m][h];
#pragma unroll
        for (int n = 0; n < 8; ++n) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            float& x = s[m][n][2 * h + i];
            if (masked && !sees(last[m][h], key + n * 8 + 2 * t + i, window))
              x = -INFINITY;
            top = fmaxf(top, x);
          }
        }
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        // A row that has seen nothing yet keeps weights of zero, not exp(inf - inf).
        const float shift = top == -INFINITY ? 0.0f : top * factor;
        const float fade = fast_exp2(peak[m][h] * factor - shift);
        float sum = 0;
#pragma unroll
        for (int n = 0; n < 8; ++n) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            float& x = s[m][n][2 * h + i];
            sum += x = fast_exp2(fmaf(x, factor, -shift));
          }
        }
        mass[m][h] = mass[m][h] * fade + sum;
        peak[m][h] = top;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
          o[m][n][2 * h] *= fade;
          o[m][n][2 * h + 1] *= fade;
        }
      }
    }
  }
};

/// Block: kM * 64 packed rows of one sequence and key/value head, over all keys or one
/// part of them.
template <int D, int kM>
__global__ __launch_bounds__(kThreads) void attention_kernel(
    AttentionParams p, View<bf16_t> o, View<float> lse, View<const bf16_t> q,
    View<const bf16_t> k, View<const bf16_t> v, Partials partials) {
  constexpr int kRows = kTile * kM;
  S2FT_DYNAMIC_SHARED(bf16_t, queries);
  bf16_t* keys = queries + kRows * kStride<D>;
  bf16_t* values = keys + kTile * kStride<D>;

  // The last tiles see the most keys: they come first.
  AttentionWork w(p, gridDim.x - 1 - blockIdx.x);
  const int splits = p.splits[w.sequence], split = w.tile % splits;
  const int rows = w.queries * w.group, row0 = w.tile / splits * kRows;
  if (row0 >= rows) return;
  const int first = row0 / w.group, final = (min(row0 + kRows, rows) - 1) / w.group;
  KeySpan span = keys_of_queries(w, p.window, first, final);
  if (splits > 1) {
    span.begin = max(span.begin, split * kSplitKeys);
    span.end = min(span.end, (split + 1) * kSplitKeys);
  }
  // Tiles of keys lie the same for every row, so that its sums do not depend on the rows
  // beside it.
  const int begin = span.begin / kTile * kTile;

  auto load_keys = [&](bf16_t* tile, const View<const bf16_t>& x, int key) {
    load_tile<D, kTile>(tile, p.head_dim, [&](int i) -> const bf16_t* {
      return key + i < span.end ? w.key(p, x, key + i) : nullptr;
    });
    copy_commit();
  };
  load_tile<D, kRows>(queries, p.head_dim, [&](int i) -> const bf16_t* {
    return row0 + i < rows ? w.row(p, q, row0 + i) : nullptr;
  });
  load_keys(keys, k, begin);

  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int warp_row = threadIdx.x / 32 * 16 * kM;
  const float factor = p.scale * kLog2e;
  Softmax<D, kM> softmax;
  softmax.begin();
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = min(row0 + warp_row + m * 16 + g + 8 * h, rows - 1);
      softmax.last[m][h] = w.last_key(row / w.group);
    }
  }

  for (int key = begin; key < span.end; key += kTile) {
    // Keys are here, and no warp reads the values of the tile before.
    copy_wait<0>();
    __syncthreads();
    load_keys(values, v, key);
    float scores[kM][8][4];
    multiply_rows<D>(scores, queries, warp_row, keys);
    copy_wait<0>();
    __syncthreads();
    if (key + kTile < span.end) load_keys(keys, k, key + kTile);
    const bool whole = key + kTile - 1 <= w.last_key(first) &&
                       (p.window == 0 || key > w.last_key(final) - p.window) &&
                       key >= span.begin && key + kTile <= span.end;
    softmax.step(scores, key, !whole, p.window, factor);
    Operands weights[kM];
#pragma unroll
    for (int m = 0; m < kM; ++m) weights[m] = to_operands(scores[m]);
    multiply_columns<D>(softmax.o, weights, values, 0);
  }
  copy_wait<0>();

#pragma unroll
  for (int m = 0; m < kM; ++m) {
    float mass[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      mass[h] = softmax.mass[m][h];
      mass[h] += __shfl_xor_sync(0xffffffffu, mass[h], 1);
      mass[h] += __shfl_xor_sync(0xffffffffu, mass[h], 2);
    }
    const int row = row0 + warp_row + m * 16 + g;
    if (splits == 1) {
      bf16_t* to[2] = {};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if (row + 8 * h >= rows) continue;
        to[h] = w.row(p, o, row + 8 * h);
        if (t == 0 && lse.data) {
          *lse.at(w.query_row + (row + 8 * h) / w.group, w.head(p, row + 8 * h)) =
              softmax.peak[m][h] * p.scale + logf(mass[h]);
        }
      }
      store_rows(softmax.o[m], to[0], to[1], 1 / mass[0], 1 / mass[1], 0, p.head_dim);
      continue;
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int r = row + 8 * h;
      if (r >= rows) continue;
      const int64_t at = p.partial[w.sequence] +
                         (int64_t(r / w.group) * p.heads + w.head(p, r)) * splits + split;
      if (t == 0) {
        partials.peak[at] = softmax.peak[m][h] * factor;
        partials.mass[at] = mass[h];
      }
      float* sums = partials.sums + at * p.head_dim;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        const int d = n * 8 + 2 * t;
        if (d >= p.head_dim) continue;
        *reinterpret_cast<float2*>(sums + d) =
            make_float2(softmax.o[m][n][2 * h], softmax.o[m][n][2 * h + 1]);
      }
    }
  }
}

/// A warp puts the parts of one (query, head) pair together.
__global__ void combine_kernel(AttentionParams p, View<bf16_t> o, View<float> lse,
                               Partials partials, int pairs) {
  const int pair = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (pair >= pairs) return;
  const int lane = threadIdx.x % 32;
  const int sequence = find_span(p.split_rows, p.count, pair);
  const int splits = p.splits[sequence], local = pair - p.split_rows[sequence];
  const int64_t at = p.partial[sequence] + int64_t(local) * splits;
  const int64_t row = p.q_begin[sequence] + local / p.heads;
  const int head = local % p.heads;
  float top = -INFINITY;
  for (int i = 0; i < splits; ++i) top = fmaxf(top, partials.peak[at + i]);
  float mass = 0;
  for (int i = 0; i < splits; ++i)
    mass += partials.mass[at + i] * fast_exp2(partials.peak[at + i] - top);
  if (lane == 0 && lse.data) *lse.at(row, head) = top * kLn2 + logf(mass);
  for (int d = lane; d < p.head_dim; d += 32) {
    float sum = 0;
    for (int i = 0; i < splits; ++i) {
      sum += partials.sums[(at + i) * p.head_dim + d] *
             fast_exp2(partials.peak[at + i] - top);
    }
    *o.at(row, int64_t(head) * p.head_dim + d) = from_f32<bf16_t>(sum / mass);
  }
}

template <int D, int kM>
void run(Context& context, Mat o, Mat lse, Mat q, Mat k, Mat v, const Sequences& s,
         const AttentionShape& shape) {
  const AttentionPlan plan = plan_attention(context, s, shape, {kTile * kM, 0, true});
  if (plan.blocks == 0) return;
  Partials partials{};
  if (plan.partials) {
    const size_t n = size_t(plan.partials);
    auto* at = static_cast<float*>(
        context.scratch(n * (size_t(shape.head_dim) + 2) * sizeof(float)));
    partials = {at, at + n * size_t(shape.head_dim), at + n * size_t(shape.head_dim) + n};
  }
  const size_t shared = (kTile * kM + 2 * kTile) * kStride<D> * sizeof(bf16_t);
  launch(context, attention_kernel<D, kM>, dim3(unsigned(plan.blocks)), dim3(kThreads),
         shared, plan.params, o, lse, q, k, v, partials);
  if (plan.partials) {
    const int pairs = int(plan.split_rows);
    launch(context, combine_kernel, dim3(unsigned(pairs + 3) / 4), dim3(128), 0,
           plan.params, o, lse, partials, pairs);
  }
}

/// Two tiles of rows a warp halve what it reads of shared memory, where registers allow
/// and there are rows.
template <int D>
void run_for_rows(Context& context, Mat o, Mat lse, Mat q, Mat k, Mat v,
                  const Sequences& s, const AttentionShape& shape) {
  int64_t longest = 0;
  for (int i = 0; i < s.count; ++i)
    longest = std::max<int64_t>(longest, s.q[i + 1] - s.q[i]);
  if constexpr (D <= 128) {
    if (longest * shape.heads / shape.kv_heads > kTile)
      return run<D, 2>(context, o, lse, q, k, v, s, shape);
  }
  run<D, 1>(context, o, lse, q, k, v, s, shape);
}

}  // namespace

void attention(Context& context, Mat o, Mat lse, Mat q, Mat k, Mat v, const Sequences& s,
               const AttentionShape& shape) {
  const Mat mats[] = {o, q, k, v};
  if (!fits_tensor_cores(context, shape, mats, 4))
    return plain_attention(context, o, lse, q, k, v, s, shape);
  const int d = shape.head_dim;
  if (d <= 32) return run_for_rows<32>(context, o, lse, q, k, v, s, shape);
  if (d <= 64) return run_for_rows<64>(context, o, lse, q, k, v, s, shape);
  if (d <= 96) return run_for_rows<96>(context, o, lse, q, k, v, s, shape);
  if (d <= 128) return run_for_rows<128>(context, o, lse, q, k, v, s, shape);
  if (d <= 192) return run_for_rows<192>(context, o, lse, q, k, v, s, shape);
  run_for_rows<256>(context, o, lse, q, k, v, s, shape);
}

}  // namespace s2ft::cuda
