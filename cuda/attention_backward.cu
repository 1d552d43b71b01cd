// Attention's gradient in bf16 on the tensor cores, the same bits every time: one pass
// over tiles of keys sums d k and d v over the rows that see them, another over tiles of
// rows sums d q, both from scores computed anew. With P the weights and
// delta = row sums of o * d_o:
//   d v = P' d_o    d S = P (d_o v' - delta)    d q = scale d S k    d k = scale d S' q
#include <cmath>

#include "cuda/attention.h"
#include "cuda/attention_plan.h"

namespace s2ft::cuda {

namespace {

/// Buffers that a tile which changes is loaded into while the one before is worked on.
template <int D>
constexpr int kStages = D <= 128 ? 2 : 1;

/// delta (T, heads) = row sums of o * d_o: a warp for each.
template <class T>
__global__ void delta_kernel(float* delta, View<const T> o, View<const T> d_o, int heads,
                             int head_dim, int64_t count) {
  const int64_t at = int64_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (at >= count) return;
  const int lane = threadIdx.x % 32;
  const int64_t row = at / heads, column = at % heads * head_dim;
  float sum = 0;
  for (int d = lane; d < head_dim; d += 32)
    sum += to_f32(*o.at(row, column + d)) * to_f32(*d_o.at(row, column + d));
  sum = warp_sum(sum);
  if (lane == 0) delta[at] = sum;
}

struct Gradients {
  View<const bf16_t> d_o, q, k, v;
  View<const float> lse;
  const float* delta;  // (T, heads)
};

/// Log-sum-exp in powers of two, delta and last key of 64 packed rows from `row0` on;
/// rows from `end` on get weights of zero.
struct RowTile {
  float lse[kTile], delta[kTile];
  int last[kTile];
};
__device__ inline void load_row_tile(RowTile& tile, const AttentionParams& p,
                                     const AttentionWork& w, const Gradients& x, int row0,
                                     int end) {
  for (int i = threadIdx.x; i < kTile; i += kThreads) {
    const int row = row0 + i;
    const bool valid = row < end;
    const int query = valid ? row / w.group : 0;
    const int head = valid ? w.head(p, row) : 0;
    const int64_t at = w.query_row + query;
    tile.lse[i] = valid ? *x.lse.at(at, head) * kLog2e : INFINITY;
    tile.delta[i] = valid ? x.delta[at * p.heads + head] : 0.0f;
    tile.last[i] = w.last_key(query);
  }
}

/// Block: d k and d v of 64 keys of a sequence and key/value head, columns
/// [kPart * blockIdx.y, ...). Scores are kept transposed, keys by rows, so that they are
/// operands as they are.
template <int D, int kPart>
__global__ __launch_bounds__(kThreads) void dkv_kernel(AttentionParams p, View<bf16_t> dk,
                                                       View<bf16_t> dv, Gradients x) {
  constexpr int kSize = kTile * kStride<D>;
  __shared__ RowTile row_tiles[kStages<D>];
  S2FT_DYNAMIC_SHARED(bf16_t, keys);
  bf16_t* values = keys + kSize;
  bf16_t* queries = values + kSize;               // [kStages]
  bf16_t* d_outs = queries + kStages<D> * kSize;  // [kStages]

  AttentionWork w(p, blockIdx.x);
  const int key0 = w.tile * kTile, part = blockIdx.y * kPart;
  const RowSpan span = rows_of_keys(w, p.window, key0, min(key0 + kTile, w.keys) - 1);
  auto load_keys = [&](bf16_t* tile, const View<const bf16_t>& from) {
    load_tile<D, kTile>(tile, p.head_dim, [&](int i) -> const bf16_t* {
      return key0 + i < w.keys ? w.key(p, from, key0 + i) : nullptr;
    });
  };
  auto load_rows = [&](int row0, int stage) {
    if (row0 < span.end) {
      auto address = [&](const View<const bf16_t>& from) {
        return [&](int i) -> const bf16_t* {
          return row0 + i < span.end ? w.row(p, from, row0 + i) : nullptr;
        };
      };
      load_tile<D, kTile>(queries + stage * kSize, p.head_dim, address(x.q));
      load_tile<D, kTile>(d_outs + stage * kSize, p.head_dim, address(x.d_o));
      load_row_tile(row_tiles[stage], p, w, x, row0, span.end);
    }
    copy_commit();
  };

  load_keys(keys, x.k);
  load_keys(values, x.v);
  load_rows(span.begin, 0);
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int warp_key = threadIdx.x / 32 * 16;
  const float factor = p.scale * kLog2e;
  float k_sums[1][kPart / 8][4], v_sums[1][kPart / 8][4];
  clear(k_sums[0]);
  clear(v_sums[0]);
  int stage = 0;
  for (int row0 = span.begin; row0 < span.end; row0 += kTile) {
    if (kStages < D >> 1) load_rows(row0 + kTile, stage ^ 1);
    copy_wait<kStages<D> - 1>();
    __syncthreads();
    const bf16_t* q_tile = queries + stage * kSize;
    const bf16_t* d_tile = d_outs + stage * kSize;
    const RowTile& rows = row_tiles[stage];
    float weights[1][8][4], d_scores[1][8][4];
    multiply_rows<D>(weights, keys, warp_key, q_tile);
    multiply_rows<D>(d_scores, values, warp_key, d_tile);
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = n * 8 + 2 * t + (i & 1), key = key0 + warp_key + g + (i >> 1) * 8;
        const bool seen = sees(rows.last[r], key, p.window);
        const float weight =
            seen ? fast_exp2(fmaf(weights[0][n][i], factor, -rows.lse[r])) : 0.0f;
        weights[0][n][i] = weight;
        d_scores[0][n][i] = weight * (d_scores[0][n][i] - rows.delta[r]);
      }
    }
    const Operands p_operands[1] = {to_operands(weights[0])};
    multiply_columns<D>(v_sums, p_operands, d_tile, part);
    const Operands s_operands[1] = {to_operands(d_scores[0])};
    multiply_columns<D>(k_sums, s_operands, q_tile, part);
    __syncthreads();
    if (kStages < D >> 1) {
      stage ^= 1;
    } else {
      load_rows(row0 + kTile, 0);
    }
  }
  copy_wait<0>();

  bf16_t *to_k[2] = {}, *to_v[2] = {};
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int key = key0 + warp_key + g + 8 * h;
    if (key >= w.keys) continue;
    to_k[h] = w.key(p, dk, key);
    to_v[h] = w.key(p, dv, key);
  }
  store_rows(k_sums[0], to_k[0], to_k[1], p.scale, p.scale, part, p.head_dim);
  store_rows(v_sums[0], to_v[0], to_v[1], 1, 1, part, p.head_dim);
}

/// Block: d q of 64 packed rows of a sequence and key/value head.
template <int D>
__global__ __launch_bounds__(kThreads) void dq_kernel(AttentionParams p, View<bf16_t> dq,
                                                      Gradients x) {
  constexpr int kSize = kTile * kStride<D>;
  S2FT_DYNAMIC_SHARED(bf16_t, queries);
  bf16_t* d_outs = queries + kSize;
  bf16_t* keys = d_outs + kSize;               // [kStages]
  bf16_t* values = keys + kStages<D> * kSize;  // [kStages]

  AttentionWork w(p, gridDim.x - 1 - blockIdx.x);
  const int rows = w.queries * w.group, row0 = w.tile * kTile;
  if (row0 >= rows) return;
  const int first = row0 / w.group, final = (min(row0 + kTile, rows) - 1) / w.group;
  const KeySpan span = keys_of_queries(w, p.window, first, final);
  auto load_rows = [&](bf16_t* tile, const View<const bf16_t>& from) {
    load_tile<D, kTile>(tile, p.head_dim, [&](int i) -> const bf16_t* {
      return row0 + i < rows ? w.row(p, from, row0 + i) : nullptr;
    });
  };
  auto load_keys = [&](int key, int stage) {
    if (key < span.end) {
      auto address = [&](const View<const bf16_t>& from) {
        return [&](int i) -> const bf16_t* {
          return key + i < span.end ? w.key(p, from, key + i) : nullptr;
        };
      };
      load_tile<D, kTile>(keys + stage * kSize, p.head_dim, address(x.k));
      load_tile<D, kTile>(values + stage * kSize, p.head_dim, address(x.v));
    }
    copy_commit();
  };

  const int begin = span.begin / kTile * kTile;
  load_rows(queries, x.q);
  load_rows(d_outs, x.d_o);
  load_keys(begin, 0);
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int warp_row = threadIdx.x / 32 * 16;
  const float factor = p.scale * kLog2e;
  float lse[2], delta[2];
  int last[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = min(row0 + warp_row + g + 8 * h, rows - 1), query = row / w.group;
    const int64_t at = w.query_row + query;
    const int head = w.head(p, row);
    lse[h] = *x.lse.at(at, head) * kLog2e;
    delta[h] = x.delta[at * p.heads + head];
    last[h] = w.last_key(query);
  }
  float sums[1][D / 8][4];
  clear(sums[0]);
  int stage = 0;
  for (int key = begin; key < span.end; key += kTile) {
    if (kStages < D >> 1) load_keys(key + kTile, stage ^ 1);
    copy_wait<kStages<D> - 1>();
    __syncthreads();
    const bf16_t* k_tile = keys + stage * kSize;
    float weights[1][8][4], d_scores[1][8][4];
    multiply_rows<D>(weights, queries, warp_row, k_tile);
    multiply_rows<D>(d_scores, d_outs, warp_row, values + stage * kSize);
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int h = i >> 1;
        const bool seen = sees(last[h], key + n * 8 + 2 * t + (i & 1), p.window);
        const float weight =
            seen ? fast_exp2(fmaf(weights[0][n][i], factor, -lse[h])) : 0.0f;
        d_scores[0][n][i] = weight * (d_scores[0][n][i] - delta[h]);
      }
    }
    const Operands s_operands[1] = {to_operands(d_scores[0])};
    multiply_columns<D>(sums, s_operands, k_tile, 0);
    __syncthreads();
    if (kStages < D >> 1) {
      stage ^= 1;
    } else {
      load_keys(key + kTile, 0);
    }
  }
  copy_wait<0>();

  bf16_t* to[2] = {};
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = row0 + warp_row + g + 8 * h;
    if (row < rows) to[h] = w.row(p, dq, row);
  }
  store_rows(sums[0], to[0], to[1], p.scale, p.scale, 0, p.head_dim);
}

template <int D>
void run(Context& context, Mat dq, Mat dk, Mat dv, const Gradients& x, const Sequences& s,
         const AttentionShape& shape) {
  // Wide heads: sums of all columns would not fit a thread's registers.
  constexpr int kPart = D <= 128 ? D : D / 2;
  const size_t shared = (2 + 2 * kStages<D>)*kTile * kStride<D> * sizeof(bf16_t);
  AttentionPlan plan = plan_attention(context, s, shape, {0, kTile, false});
  launch(context, dkv_kernel<D, kPart>, dim3(unsigned(plan.blocks), D / kPart),
         dim3(kThreads), shared, plan.params, dk, dv, x);
  plan = plan_attention(context, s, shape, {kTile, 0, false});
  launch(context, dq_kernel<D>, dim3(unsigned(plan.blocks)), dim3(kThreads), shared,
         plan.params, dq, x);
}

void run_for_width(Context& context, Mat dq, Mat dk, Mat dv, const Gradients& x,
                   const Sequences& s, const AttentionShape& shape) {
  const int d = shape.head_dim;
  if (d <= 32) return run<32>(context, dq, dk, dv, x, s, shape);
  if (d <= 64) return run<64>(context, dq, dk, dv, x, s, shape);
  if (d <= 96) return run<96>(context, dq, dk, dv, x, s, shape);
  if (d <= 128) return run<128>(context, dq, dk, dv, x, s, shape);
  if (d <= 192) return run<192>(context, dq, dk, dv, x, s, shape);
  run<256>(context, dq, dk, dv, x, s, shape);
}

}  // namespace

size_t attention_workspace(int64_t tokens, const AttentionShape& shape) {
  return size_t(tokens) * size_t(shape.heads) * sizeof(float);
}

void attention_backward(Context& context, Mat dq, Mat dk, Mat dv, Mat d_o, Mat q, Mat k,
                        Mat v, Mat o, Mat lse, const Sequences& s,
                        const AttentionShape& shape) {
  const int64_t count = q.rows * shape.heads;
  if (count == 0) return;
  auto* delta = static_cast<float*>(context.scratch(attention_workspace(q.rows, shape)));
  with_type(q.dtype, [&](auto* type) {
    using T = Pointed<decltype(type)>;
    launch(context, delta_kernel<T>, dim3(unsigned((count + 7) / 8)), dim3(256), 0, delta,
           o, d_o, shape.heads, shape.head_dim, count);
  });
  const Mat mats[] = {dq, dk, dv, d_o, q, k, v};
  if (!fits_tensor_cores(context, shape, mats, 7)) {
    return plain_attention_backward(context, dq, dk, dv, d_o, q, k, v, lse, delta, s,
                                    shape);
  }
  run_for_width(context, dq, dk, dv, Gradients{d_o, q, k, v, lse, delta}, s, shape);
}

}  // namespace s2ft::cuda
