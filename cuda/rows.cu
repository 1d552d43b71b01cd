// Kernels that pick, add and reorder rows and columns by index.
#include <numeric>
#include <vector>

#include "cuda/ops.h"
#include "cuda/spans.cuh"

namespace s2ft::cuda {

namespace {

// What in-place orders copy aside at a time.
constexpr int64_t kPanelBytes = 32 << 20;

template <class Y, class X>
struct GatherRows {
  View<Y> y;
  View<X> x;
  const int32_t* rows;
  template <int V>
  __device__ void apply(int64_t i, int64_t j) const {
    store<V>(y.at(i, j), load<V>(x.at(rows[i], j)));
  }
};

template <class Y, class X>
struct GatherCols {
  View<Y> y;
  View<X> x;
  const int32_t* cols;
  template <int V>
  __device__ void apply(int64_t i, int64_t j) const {
    Floats<V> out;
    for (int k = 0; k < V; ++k) out.v[k] = to_f32(*x.at(i, cols[j + k]));
    store<V>(y.at(i, j), out);
  }
};

template <class Y, class X>
struct ScatterRows {
  View<Y> y;
  View<X> x;
  const int32_t* rows;
  template <int V>
  __device__ void apply(int64_t i, int64_t j) const {
    store<V>(y.at(rows[i], j), load<V>(x.at(i, j)));
  }
};

template <class Y, class X>
struct ScatterCols {
  View<Y> y;
  View<X> x;
  const int32_t* cols;
  template <int V>
  __device__ void apply(int64_t i, int64_t j) const {
    const Floats<V> in = load<V>(x.at(i, j));
    for (int k = 0; k < V; ++k) *y.at(i, cols[j + k]) = from_f32<Y>(in.v[k]);
  }
};

template <class Y, class X>
struct AddCols {
  View<Y> y;
  View<Y> before;  // of no data: nothing is kept
  View<X> x;
  const int32_t* cols;
  template <int V>
  __device__ void apply(int64_t i, int64_t j) const {
    const Floats<V> in = load<V>(x.at(i, j));
    for (int k = 0; k < V; ++k) {
      Y* to = y.at(i, cols[j + k]);
      const Y was = *to;
      if (before.data) *before.at(i, j + k) = was;
      *to = from_f32<Y>(to_f32(was) + in.v[k]);
    }
  }
};

/// Row i of the loop is the i-th distinct target, if there are so many; its sources add
/// up in their order.
template <class Y, class X>
struct ScatterAddRows {
  View<Y> y;
  View<X> x;
  const int32_t* targets;  // [rows] -1 where there are fewer
  const int32_t* begins;   // [rows + 1] into sources
  const int32_t* sources;
  template <int V>
  __device__ void apply(int64_t i, int64_t j) const {
    if (targets[i] < 0) return;
    Y* to = y.at(targets[i], j);
    Floats<V> sum = load<V>(to);
    for (int32_t s = begins[i]; s < begins[i + 1]; ++s) {
      const Floats<V> term = load<V>(x.at(sources[s], j));
      // Rounded after every addition, as a loop over the rows would.
      for (int k = 0; k < V; ++k) sum.v[k] = to_f32(from_f32<Y>(sum.v[k] + term.v[k]));
    }
    store<V>(to, sum);
  }
};

template <template <class, class> class Op>
void by_index(Context& context, Mat y, Mat x, int64_t rows, int64_t cols, bool wide,
              const int32_t* index) {
  with_types(y.dtype, x.dtype, [&](auto* to, auto* from) {
    spans(context, rows, cols, wide,
          Op<Pointed<decltype(to)>, Pointed<decltype(from)>>{y, x, index});
  });
}

}  // namespace

void gather_rows(Context& context, Mat y, Mat x, const int32_t* rows) {
  if (y.count() == 0) return;
  by_index<GatherRows>(context, y, x, y.rows, y.cols, vectors(y) && vectors(x),
                       context.to_device(rows, y.rows));
}

void gather_cols(Context& context, Mat y, Mat x, const int32_t* cols) {
  if (y.count() == 0) return;
  by_index<GatherCols>(context, y, x, y.rows, y.cols, false,
                       context.to_device(cols, y.cols));
}

void scatter_rows(Context& context, Mat y, Mat x, const int32_t* rows) {
  if (x.count() == 0) return;
  by_index<ScatterRows>(context, y, x, x.rows, x.cols, vectors(y) && vectors(x),
                        context.to_device(rows, x.rows));
}

void scatter_cols(Context& context, Mat y, Mat x, const int32_t* cols) {
  if (x.count() == 0) return;
  by_index<ScatterCols>(context, y, x, x.rows, x.cols, false,
                        context.to_device(cols, x.cols));
}

void add_cols(Context& context, Mat y, Mat before, Mat x, const int32_t* cols) {
  if (x.count() == 0) return;
  const int32_t* to = context.to_device(cols, x.cols);
  with_types(y.dtype, x.dtype, [&](auto* a, auto* b) {
    spans(context, x.rows, x.cols, false,
          AddCols<Pointed<decltype(a)>, Pointed<decltype(b)>>{y, before, x, to});
  });
}

void scatter_add_rows(Context& context, Mat y, Mat x, const int32_t* rows) {
  if (x.count() == 0) return;
  std::vector<int32_t> sources(size_t(x.rows));
  std::iota(sources.begin(), sources.end(), 0);
  std::stable_sort(sources.begin(), sources.end(),
                   [&](int32_t a, int32_t b) { return rows[a] < rows[b]; });
  std::vector<int32_t> targets, begins;
  for (size_t s = 0; s < sources.size(); ++s) {
    if (s > 0 && rows[sources[s]] == targets.back()) continue;
    targets.push_back(rows[sources[s]]);
    begins.push_back(int32_t(s));
  }
  // As many for every content, so that batches of one shape are one launch (Repeats).
  targets.resize(sources.size(), -1);
  begins.resize(sources.size() + 1, int32_t(sources.size()));
  const int32_t* to = context.to_device(targets.data(), x.rows);
  const int32_t* at = context.to_device(begins.data(), x.rows + 1);
  const int32_t* from = context.to_device(sources.data(), x.rows);
  with_types(y.dtype, x.dtype, [&](auto* a, auto* b) {
    spans(context, x.rows, x.cols, vectors(y) && vectors(x),
          ScatterAddRows<Pointed<decltype(a)>, Pointed<decltype(b)>>{y, x, to, at, from});
  });
}

void permute_rows(Context& context, Mat x, const int32_t* order) {
  if (x.count() == 0) return;
  const int32_t* from = context.to_device(order, x.rows);
  const int64_t size = int64_t(dtype_size(x.dtype));
  const int64_t most =
      std::max<int64_t>(kPanelBytes / (x.rows * size) / kVector * kVector, kVector);
  for (int64_t j = 0; j < x.cols; j += most) {
    const Mat panel = x.col_range(j, std::min(most, x.cols - j));
    const Mat aside = mat(context.scratch(size_t(x.rows * panel.cols * size)), x.dtype,
                          x.rows, panel.cols);
    copy(context, aside, panel);
    by_index<GatherRows>(context, panel, aside, x.rows, panel.cols,
                         vectors(panel) && vectors(aside), from);
  }
}

void permute_cols(Context& context, Mat x, const int32_t* order) {
  if (x.count() == 0) return;
  const int32_t* from = context.to_device(order, x.cols);
  const int64_t size = int64_t(dtype_size(x.dtype));
  const int64_t most = std::max<int64_t>(kPanelBytes / (x.cols * size), 1);
  for (int64_t i = 0; i < x.rows; i += most) {
    const Mat panel = x.row_range(i, std::min(most, x.rows - i));
    const Mat aside = mat(context.scratch(size_t(panel.rows * x.cols * size)), x.dtype,
                          panel.rows, x.cols);
    copy(context, aside, panel);
    by_index<GatherCols>(context, panel, aside, panel.rows, x.cols, false, from);
  }
}

}  // namespace s2ft::cuda
