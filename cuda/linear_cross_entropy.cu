// The loss head as one operation: logits exist for some rows and a block of the
// vocabulary at a time. Works in memory that the caller owns.
#include "core/arena.h"
#include "cuda/ops.h"
#include "cuda/products.h"
#include "cuda/spans.cuh"

namespace s2ft::cuda {

namespace {

constexpr int kThreads = 256;
// Products large enough for a device, in some tens of megabytes.
constexpr int64_t kMostRows = 2048, kMostColumns = 4096;
// Exponentials may exceed 1 by e^kSlack before sums are brought to a new maximum: rows
// rise often in their first blocks, and f32 and bf16 are as exact there as below 1.
constexpr float kSlack = 8;

/// A row's state between blocks of the vocabulary.
struct Rows {
  float* max;
  double* sum;
  float* target;  // logit of the target
  float* nll;
};

struct Scratch {
  Mat logits, terms, total;
  Rows rows;
};

Scratch place(Arena& arena, int64_t rows, int64_t width, int64_t columns, DType dtype) {
  Scratch s;
  s.logits = arena.matrix(DType::f32, rows, columns);
  s.terms = dtype == DType::f32 ? s.logits : arena.matrix(dtype, rows, columns);
  s.total = arena.matrix(DType::f32, rows, width);
  s.rows.max = static_cast<float*>(arena.take(size_t(rows) * sizeof(float)));
  s.rows.sum = static_cast<double*>(arena.take(size_t(rows) * sizeof(double)));
  s.rows.target = static_cast<float*>(arena.take(size_t(rows) * sizeof(float)));
  return s;
}

int64_t rows_at_once(int64_t rows) {
  return std::min(rows, kMostRows);
}

/// Columns of a block: equal shares of the vocabulary, in whole vectors.
int64_t block_columns(int64_t vocabulary) {
  const int64_t blocks = (vocabulary + kMostColumns - 1) / kMostColumns;
  const int64_t share = (vocabulary + blocks - 1) / blocks;
  return std::min((share + 63) / 64 * 64, kMostColumns);
}

/// terms = exp(logits - max), zero at the target; sums so far, and what they were summed
/// under a smaller maximum, are brought to a new one.   terms may be logits
template <class T>
__global__ void softmax_block_kernel(View<T> terms, View<float> logits, View<float> total,
                                     int64_t width, const int32_t* targets, int64_t first,
                                     int64_t rows, int64_t cols, Rows state) {
  __shared__ float maxima[32];
  __shared__ double sums[32];
  for (int64_t i = blockIdx.x; i < rows; i += gridDim.x) {
    const float* x = logits.at(i, 0);
    float max = -HUGE_VALF;
    for (int64_t j = threadIdx.x; j < cols; j += kThreads) max = fmaxf(max, x[j]);
    max = block_max(max, maxima);
    double before = 0;
    if (first > 0) {
      const float old = state.max[i];
      before = state.sum[i];
      if (max > old + kSlack) {
        const float factor = expf(old - max);
        before *= double(factor);
        if (total.data)
          for (int64_t j = threadIdx.x; j < width; j += kThreads)
            *total.at(i, j) *= factor;
      } else {
        max = old;
      }
    }
    const int64_t target = targets[i] - first;
    double sum = 0;
    for (int64_t j = threadIdx.x; j < cols; j += kThreads) {
      const float logit = x[j], term = expf(logit - max);
      sum += double(term);
      if (j == target) state.target[i] = logit;
      if (terms.data) *terms.at(i, j) = from_f32<T>(j == target ? 0.0f : term);
    }
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) {
      state.max[i] = max;
      state.sum[i] = before + sum;
    }
    __syncthreads();
  }
}

template <class T>
__global__ void finish_kernel(View<T> dx, View<float> total, View<T> w,
                              const int32_t* targets, int64_t rows, int64_t width,
                              const float* gradient_scale, Rows state) {
  for (int64_t i = blockIdx.x; i < rows; i += gridDim.x) {
    const double exact_sum = state.sum[i];
    const float max = state.max[i], target = state.target[i], sum = float(exact_sum);
    if (threadIdx.x == 0)
      state.nll[i] = float(log(exact_sum) + (double(max) - double(target)));
    if (!dx.data) continue;
    const float at_target = (expf(target - max) / sum - 1.0f) * *gradient_scale;
    const float share = *gradient_scale / sum;
    const T* row = w.at(targets[i], 0);
    for (int64_t j = threadIdx.x; j < width; j += kThreads)
      *dx.at(i, j) = from_f32<T>(to_f32(row[j]) * at_target + *total.at(i, j) * share);
  }
}

}  // namespace

size_t linear_cross_entropy_scratch(int64_t rows, int64_t width, int64_t vocabulary) {
  Arena arena;
  // bf16 needs the more: f32 terms take the place of their logits.
  place(arena, rows_at_once(rows), width, block_columns(vocabulary), DType::bf16);
  return arena.peak();
}

void linear_cross_entropy(Context& context, Mat nll, Mat dx, Mat x, Mat w,
                          const int32_t* targets, float gradient_scale, void* scratch) {
  if (x.rows == 0) return;
  const int64_t step = rows_at_once(x.rows), columns = block_columns(w.rows);
  Arena arena(scratch);
  const Scratch s = place(arena, step, x.cols, columns, x.dtype);
  const int32_t* at = context.to_device(targets, x.rows);
  // Differs between steps whose shapes do not: it travels with the targets.
  const float* factor = context.to_device(&gradient_scale, 1);
  for (int64_t i = 0; i < x.rows; i += step) {
    const int64_t n = std::min(step, x.rows - i);
    const Mat rows = x.row_range(i, n);
    const Mat total = dx ? s.total.row_range(0, n) : Mat{};
    Rows state = s.rows;
    state.nll = nll.as<float>() + i;
    for (int64_t v = 0; v < w.rows; v += columns) {
      const int64_t m = std::min(columns, w.rows - v);
      const Mat block = w.row_range(v, m);
      const Mat logits = s.logits.row_range(0, n).col_range(0, m);
      const Mat terms = dx ? s.terms.row_range(0, n).col_range(0, m) : Mat{};
      context.products().matmul(logits, rows, false, block, true, 0);
      with_type(x.dtype, [&](auto* type) {
        using T = Pointed<decltype(type)>;
        launch(context, softmax_block_kernel<T>, dim3(unsigned(n)), dim3(kThreads), 0,
               View<T>(terms), View<float>(logits), View<float>(total), x.cols, at + i, v,
               n, m, state);
      });
      if (dx) context.products().matmul(total, terms, false, block, false, v > 0);
    }
    with_type(x.dtype, [&](auto* type) {
      using T = Pointed<decltype(type)>;
      launch(context, finish_kernel<T>, dim3(unsigned(n)), dim3(kThreads), 0,
             View<T>(dx ? dx.row_range(i, n) : Mat{}), View<float>(total), View<T>(w),
             at + i, n, x.cols, factor, state);
    });
  }
}

}  // namespace s2ft::cuda
