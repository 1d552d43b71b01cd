// Attention by ordinary arithmetic, forward and backward: f32, and bf16 whose head size
// or alignment the tensor cores' kernels do not take. The same tiling, 32 rows against 32
// keys; eight threads share a row of the result.
#include <cmath>
#include <string>

#include "core/error.h"
#include "cuda/attention_plan.h"

namespace s2ft::cuda {

namespace {

constexpr int kSide = 32, kLanes = 8, kPlainThreads = kSide * kLanes;
constexpr int kLargest = 256;  // head_dim
constexpr int kEach = kSide / kLanes;

/// Copies rows of head_dim elements to shared memory, `stride` apart; address(row) is
/// null for rows to be zero.
template <class Address>
__device__ void fill(float* tile, int stride, int head_dim, Address address) {
  for (int i = threadIdx.x; i < kSide * head_dim; i += kPlainThreads) {
    const int row = i / head_dim, d = i - row * head_dim;
    const auto* from = address(row);
    tile[row * stride + d] = from ? to_f32(from[d]) : 0.0f;
  }
}

__device__ inline float dot(const float* x, const float* y, int n) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum = fmaf(x[i], y[i], sum);
  return sum;
}

/// A block of 32 packed rows, and the thread's place in it: eight threads have a row.
struct PlainRows {
  AttentionWork w;
  int rows, row0, r, lane;
  int row = 0, last = 0;  // the thread's row, and the last key that it sees
  KeySpan span{0, 0};     // keys that some of the rows see

  __device__ explicit PlainRows(const AttentionParams& p)
      : w(p, gridDim.x - 1 - blockIdx.x),
        rows(w.queries * w.group),
        row0(w.tile * kSide),
        r(threadIdx.x / kLanes),
        lane(threadIdx.x % kLanes) {
    if (empty()) return;
    row = min(row0 + r, rows - 1);
    last = w.last_key(row / w.group);
    span = keys_of_queries(w, p.window, row0 / w.group,
                           (min(row0 + kSide, rows) - 1) / w.group);
  }
  __device__ bool empty() const { return row0 >= rows; }
  /// Whether the thread's row is one, and not there to fill the block.
  __device__ bool has_row() const { return row0 + r < rows; }

  template <class T>
  __device__ void load_rows(const AttentionParams& p, float* tile,
                            const View<const T>& x) const {
    fill(tile, p.head_dim + 1, p.head_dim, [&](int i) -> const T* {
      return row0 + i < rows ? w.row(p, x, row0 + i) : nullptr;
    });
  }
  template <class T>
  __device__ void load_keys(const AttentionParams& p, float* tile, const View<const T>& x,
                            int key) const {
    fill(tile, p.head_dim + 1, p.head_dim, [&](int i) -> const T* {
      return key + i < span.end ? w.key(p, x, key + i) : nullptr;
    });
  }
};

/// Block: 32 packed rows of a sequence and key/value head.
template <class T, int kCols>
__global__ void plain_kernel(AttentionParams p, View<T> o, View<float> lse,
                             View<const T> q, View<const T> k, View<const T> v) {
  S2FT_DYNAMIC_SHARED(float, shared);
  const int hd = p.head_dim, stride = hd + 1;
  float* queries = shared;
  float* keys = queries + kSide * stride;
  float* values = keys + kSide * stride;
  float* weights = values + kSide * stride;  // [kSide][kSide + 1]

  const PlainRows b(p);
  if (b.empty()) return;
  const AttentionWork& w = b.w;
  const int r = b.r, lane = b.lane;
  b.load_rows(p, queries, q);
  float sums[kCols] = {};
  float peak = -INFINITY, mass = 0;
  for (int key = b.span.begin / kSide * kSide; key < b.span.end; key += kSide) {
    __syncthreads();
    b.load_keys(p, keys, k, key);
    b.load_keys(p, values, v, key);
    __syncthreads();
    float s[kEach], top = peak;
    for (int i = 0; i < kEach; ++i) {
      const int j = lane + i * kLanes;
      s[i] = sees(b.last, key + j, p.window)
                 ? dot(queries + r * stride, keys + j * stride, hd) * p.scale
                 : -INFINITY;
      top = fmaxf(top, s[i]);
    }
    for (int bit = 1; bit < kLanes; bit *= 2)
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, bit));
    const float shift = top == -INFINITY ? 0.0f : top;
    const float fade = expf(peak - shift);
    mass *= fade;
    peak = top;
    for (int i = 0; i < kEach; ++i) {
      const float weight = expf(s[i] - shift);
      mass += weight;
      weights[r * (kSide + 1) + lane + i * kLanes] = weight;
    }
    __syncwarp();
    for (int c = 0; c < kCols; ++c) {
      const int d = lane + c * kLanes;
      float sum = sums[c] * fade;
      if (d < hd) {
        for (int j = 0; j < kSide; ++j)
          sum = fmaf(weights[r * (kSide + 1) + j], values[j * stride + d], sum);
      }
      sums[c] = sum;
    }
  }
  for (int bit = 1; bit < kLanes; bit *= 2)
    mass += __shfl_xor_sync(0xffffffffu, mass, bit);
  if (!b.has_row()) return;
  T* to = w.row(p, o, b.row);
  for (int c = 0; c < kCols; ++c) {
    const int d = lane + c * kLanes;
    if (d < hd) to[d] = from_f32<T>(sums[c] / mass);
  }
  if (lane == 0 && lse.data)
    *lse.at(w.query_row + b.row / w.group, w.head(p, b.row)) = peak + logf(mass);
}

/// What the gradient's kernels read of the rows beside q and d_o.
struct RowSums {
  View<const float> lse;
  const float* delta;  // (T, heads)

  __device__ float lse_of(const AttentionParams& p, const AttentionWork& w, int r) const {
    return *lse.at(w.query_row + r / w.group, w.head(p, r));
  }
  __device__ float delta_of(const AttentionParams& p, const AttentionWork& w,
                            int r) const {
    return delta[(w.query_row + r / w.group) * p.heads + w.head(p, r)];
  }
};

/// Block: d q of 32 packed rows.
template <class T, int kCols>
__global__ void plain_dq_kernel(AttentionParams p, View<T> dq, View<const T> d_o,
                                View<const T> q, View<const T> k, View<const T> v,
                                RowSums row_sums) {
  S2FT_DYNAMIC_SHARED(float, shared);
  const int hd = p.head_dim, stride = hd + 1;
  float* queries = shared;
  float* d_outs = queries + kSide * stride;
  float* keys = d_outs + kSide * stride;
  float* values = keys + kSide * stride;
  float* d_scores = values + kSide * stride;  // [kSide][kSide + 1]

  const PlainRows b(p);
  if (b.empty()) return;
  const AttentionWork& w = b.w;
  const int r = b.r, lane = b.lane;
  const float lse = row_sums.lse_of(p, w, b.row), delta = row_sums.delta_of(p, w, b.row);
  b.load_rows(p, queries, q);
  b.load_rows(p, d_outs, d_o);
  float sums[kCols] = {};
  for (int key = b.span.begin / kSide * kSide; key < b.span.end; key += kSide) {
    __syncthreads();
    b.load_keys(p, keys, k, key);
    b.load_keys(p, values, v, key);
    __syncthreads();
    for (int i = 0; i < kEach; ++i) {
      const int j = lane + i * kLanes;
      float d_score = 0;
      if (sees(b.last, key + j, p.window)) {
        const float score = dot(queries + r * stride, keys + j * stride, hd) * p.scale;
        const float d_weight = dot(d_outs + r * stride, values + j * stride, hd);
        d_score = expf(score - lse) * (d_weight - delta);
      }
      d_scores[r * (kSide + 1) + j] = d_score;
    }
    __syncwarp();
    for (int c = 0; c < kCols; ++c) {
      const int d = lane + c * kLanes;
      if (d >= hd) continue;
      for (int j = 0; j < kSide; ++j)
        sums[c] = fmaf(d_scores[r * (kSide + 1) + j], keys[j * stride + d], sums[c]);
    }
  }
  if (!b.has_row()) return;
  T* to = w.row(p, dq, b.row);
  for (int c = 0; c < kCols; ++c) {
    const int d = lane + c * kLanes;
    if (d < hd) to[d] = from_f32<T>(sums[c] * p.scale);
  }
}

/// Block: d k and d v of 32 keys of a sequence and key/value head.
template <class T, int kCols>
__global__ void plain_dkv_kernel(AttentionParams p, View<T> dk, View<T> dv,
                                 View<const T> d_o, View<const T> q, View<const T> k,
                                 View<const T> v, RowSums row_sums) {
  S2FT_DYNAMIC_SHARED(float, shared);
  const int hd = p.head_dim, stride = hd + 1;
  float* keys = shared;
  float* values = keys + kSide * stride;
  float* queries = values + kSide * stride;
  float* d_outs = queries + kSide * stride;
  float* weights = d_outs + kSide * stride;  // [kSide keys][kSide + 1]
  float* d_scores = weights + kSide * (kSide + 1);

  AttentionWork w(p, blockIdx.x);
  const int key0 = w.tile * kSide;
  const RowSpan span = rows_of_keys(w, p.window, key0, min(key0 + kSide, w.keys) - 1);
  const int j = threadIdx.x / kLanes, lane = threadIdx.x % kLanes, key = key0 + j;
  fill(keys, stride, hd, [&](int i) -> const T* {
    return key0 + i < w.keys ? w.key(p, k, key0 + i) : nullptr;
  });
  fill(values, stride, hd, [&](int i) -> const T* {
    return key0 + i < w.keys ? w.key(p, v, key0 + i) : nullptr;
  });
  float k_sums[kCols] = {}, v_sums[kCols] = {};
  for (int row0 = span.begin; row0 < span.end; row0 += kSide) {
    __syncthreads();
    fill(queries, stride, hd, [&](int i) -> const T* {
      return row0 + i < span.end ? w.row(p, q, row0 + i) : nullptr;
    });
    fill(d_outs, stride, hd, [&](int i) -> const T* {
      return row0 + i < span.end ? w.row(p, d_o, row0 + i) : nullptr;
    });
    __syncthreads();
    for (int i = 0; i < kEach; ++i) {
      const int r = lane + i * kLanes, row = row0 + r;
      float weight = 0, d_score = 0;
      if (row < span.end && sees(w.last_key(row / w.group), key, p.window)) {
        const float score = dot(queries + r * stride, keys + j * stride, hd) * p.scale;
        const float d_weight = dot(d_outs + r * stride, values + j * stride, hd);
        weight = expf(score - row_sums.lse_of(p, w, row));
        d_score = weight * (d_weight - row_sums.delta_of(p, w, row));
      }
      weights[j * (kSide + 1) + r] = weight;
      d_scores[j * (kSide + 1) + r] = d_score;
    }
    __syncwarp();
    for (int c = 0; c < kCols; ++c) {
      const int d = lane + c * kLanes;
      if (d >= hd) continue;
      for (int r = 0; r < kSide; ++r) {
        v_sums[c] = fmaf(weights[j * (kSide + 1) + r], d_outs[r * stride + d], v_sums[c]);
        k_sums[c] =
            fmaf(d_scores[j * (kSide + 1) + r], queries[r * stride + d], k_sums[c]);
      }
    }
  }
  if (key >= w.keys) return;
  T *to_k = w.key(p, dk, key), *to_v = w.key(p, dv, key);
  for (int c = 0; c < kCols; ++c) {
    const int d = lane + c * kLanes;
    if (d >= hd) continue;
    to_k[d] = from_f32<T>(k_sums[c] * p.scale);
    to_v[d] = from_f32<T>(v_sums[c]);
  }
}

size_t shared_bytes(const AttentionShape& shape, int tiles, int squares) {
  return size_t(kSide) *
         (size_t(tiles) * size_t(shape.head_dim + 1) + size_t(squares) * (kSide + 1)) *
         sizeof(float);
}

/// f(T*, std::integral_constant of the columns that each thread keeps).
template <class F>
void with_columns(DType type, int head_dim, F&& f) {
  if (head_dim > kLargest) {
    throw Error("UNSUPPORTED", "attention: expected head_dim of at most " +
                                   std::to_string(kLargest) + ", found " +
                                   std::to_string(head_dim));
  }
  with_type(type, [&](auto* t) {
    if (head_dim <= 64) return f(t, std::integral_constant<int, 64 / kLanes>());
    if (head_dim <= 128) return f(t, std::integral_constant<int, 128 / kLanes>());
    f(t, std::integral_constant<int, kLargest / kLanes>());
  });
}

}  // namespace

void plain_attention(Context& context, Mat o, Mat lse, Mat q, Mat k, Mat v,
                     const Sequences& s, const AttentionShape& shape) {
  with_columns(q.dtype, shape.head_dim, [&](auto* type, auto columns) {
    using T = Pointed<decltype(type)>;
    const AttentionPlan plan = plan_attention(context, s, shape, {kSide, 0, false});
    launch(context, plain_kernel<T, columns.value>, dim3(unsigned(plan.blocks)),
           dim3(kPlainThreads), shared_bytes(shape, 3, 1), plan.params, o, lse, q, k, v);
  });
}

void plain_attention_backward(Context& context, Mat dq, Mat dk, Mat dv, Mat d_o, Mat q,
                              Mat k, Mat v, Mat lse, const float* delta,
                              const Sequences& s, const AttentionShape& shape) {
  with_columns(q.dtype, shape.head_dim, [&](auto* type, auto columns) {
    using T = Pointed<decltype(type)>;
    const RowSums row_sums{lse, delta};
    AttentionPlan plan = plan_attention(context, s, shape, {0, kSide, false});
    launch(context, plain_dkv_kernel<T, columns.value>, dim3(unsigned(plan.blocks)),
           dim3(kPlainThreads), shared_bytes(shape, 4, 2), plan.params, dk, dv, d_o, q, k,
           v, row_sums);
    plan = plan_attention(context, s, shape, {kSide, 0, false});
    launch(context, plain_dq_kernel<T, columns.value>, dim3(unsigned(plan.blocks)),
           dim3(kPlainThreads), shared_bytes(shape, 4, 1), plan.params, dq, d_o, q, k, v,
           row_sums);
  });
}

}  // namespace s2ft::cuda
