// What adapters add beside a product, for groups of a batch's rows: values of a row
// first, then where they go. A block works on one row; groups of any adapters share the
// launches.
#include <algorithm>
#include <vector>

#include "backend/backend.h"
#include "cuda/ops.h"
#include "cuda/spans.cuh"

namespace s2ft::cuda {

namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;

/// A group of rows as kernels take it; its values lie at `values` of scratch, k a row.
template <class T>
struct Group {
  int64_t begin, k, values;
  const int32_t *gather, *scatter;
  const T *a, *b;
  int64_t a_ld, b_ld;
  int64_t first;  // row of all groups' rows
};

template <class T>
__device__ inline const Group<T>& group_of(const Group<T>* groups, int count,
                                           int64_t row) {
  int low = 0, high = count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (groups[middle].first <= row) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return groups[low];
}

/// values[., v] = x[row, gather[v]], or a warp's product with row v of a.
template <class T>
__global__ void values_kernel(float* values, View<T> x, int64_t in,
                              const Group<T>* groups, int count) {
  const Group<T> g = group_of(groups, count, blockIdx.x);
  const int64_t i = int64_t(blockIdx.x) - g.first;
  const T* xi = x.at(g.begin + i, 0);
  float* to = values + g.values + i * g.k;
  const int lane = threadIdx.x % 32;
  const int64_t step = int64_t(gridDim.y) * kWarps;
  for (int64_t v = int64_t(blockIdx.y) * kWarps + threadIdx.x / 32; v < g.k; v += step) {
    if (g.gather) {
      if (lane == 0) to[v] = to_f32(xi[g.gather[v]]);
      continue;
    }
    const T* av = g.a + v * g.a_ld;
    float sum = 0;
    for (int64_t j = lane; j < in; j += 32) sum += to_f32(xi[j]) * to_f32(av[j]);
    sum = warp_sum(sum);
    if (lane == 0) to[v] = sum;
  }
}

/// y[row, scatter[v]] += values[., v], or y[row, j] += sum over v of values b[v, j].
template <class T>
__global__ void add_kernel(View<T> y, int64_t out, const float* values,
                           const Group<T>* groups, int count) {
  const Group<T> g = group_of(groups, count, blockIdx.x);
  const int64_t i = int64_t(blockIdx.x) - g.first;
  T* yi = y.at(g.begin + i, 0);
  const float* from = values + g.values + i * g.k;
  const int64_t first = int64_t(blockIdx.y) * kThreads + threadIdx.x;
  const int64_t step = int64_t(gridDim.y) * kThreads;
  if (g.scatter) {
    for (int64_t v = first; v < g.k; v += step) {
      T* to = yi + g.scatter[v];
      *to = from_f32<T>(to_f32(*to) + from[v]);
    }
    return;
  }
  for (int64_t j = first; j < out; j += step) {
    float sum = 0;
    for (int64_t v = 0; v < g.k; ++v) sum += from[v] * to_f32(g.b[v * g.b_ld + j]);
    yi[j] = from_f32<T>(to_f32(yi[j]) + sum);
  }
}

template <class T>
void run(Context& context, Mat y, Mat x, const AdapterRows* groups, int count) {
  std::vector<Group<T>> table;
  int64_t rows = 0, values = 0, most = 0;
  for (int i = 0; i < count; ++i) {
    const AdapterRows& g = groups[i];
    if (g.count == 0 || g.k == 0) continue;
    table.push_back({g.begin, g.k, values, g.gather, g.scatter, g.a.as<T>(), g.b.as<T>(),
                     g.a.ld, g.b.ld, rows});
    rows += g.count;
    values += g.count * g.k;
    most = std::max(most, g.k);
  }
  if (table.empty()) return;
  const Group<T>* on_device = context.to_device(table.data(), int64_t(table.size()));
  auto* at = static_cast<float*>(context.scratch(size_t(values) * sizeof(float)));
  const auto across = [&](int64_t n, int64_t each) {
    return unsigned(std::min<int64_t>((n + each - 1) / each, 32));
  };
  launch(context, values_kernel<T>, dim3(unsigned(rows), across(most, kWarps)),
         dim3(kThreads), 0, at, View<T>(x), x.cols, on_device, int(table.size()));
  launch(context, add_kernel<T>,
         dim3(unsigned(rows), across(std::max(y.cols, most), kThreads)), dim3(kThreads),
         0, View<T>(y), y.cols, static_cast<const float*>(at), on_device,
         int(table.size()));
}

}  // namespace

void add_adapters(Context& context, Mat y, Mat x, const AdapterRows* groups, int count) {
  with_type(y.dtype, [&](auto* type) {
    run<Pointed<decltype(type)>>(context, y, x, groups, count);
  });
}

}  // namespace s2ft::cuda
