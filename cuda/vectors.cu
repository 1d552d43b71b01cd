// Kernels that scale columns or pick single elements.
#include "cuda/ops.h"
#include "cuda/spans.cuh"

namespace s2ft::cuda {

namespace {

template <class Y, class X>
struct ScaleCols {
  View<Y> y;
  View<X> x;
  const float* factors;
  bool accumulate;
  template <int V>
  __device__ void apply(int64_t i, int64_t j) const {
    Floats<V> out = load<V>(x.at(i, j));
    const Floats<V> f = load<V>(factors + j);
    for (int k = 0; k < V; ++k) out.v[k] *= f.v[k];
    if (accumulate) {
      const Floats<V> before = load<V>(y.at(i, j));
      for (int k = 0; k < V; ++k) out.v[k] += before.v[k];
    }
    store<V>(y.at(i, j), out);
  }
};

struct InverseSqrt {
  View<float> y, x;
  template <int V>
  __device__ void apply(int64_t i, int64_t j) const {
    Floats<V> v = load<V>(x.at(i, j));
    for (int k = 0; k < V; ++k) v.v[k] = v.v[k] > 0 ? 1.0f / sqrtf(v.v[k]) : 0.0f;
    store<V>(y.at(i, j), v);
  }
};

template <class X>
struct GatherElements {
  float* y;
  View<X> x;
  const int32_t* index;
  int64_t cols;
  template <int V>
  __device__ void apply(int64_t, int64_t j) const {
    for (int k = 0; k < V; ++k)
      y[j + k] += to_f32(*x.at(index[j + k] / cols, index[j + k] % cols));
  }
};

template <class Y>
struct ScatterElements {
  View<Y> y;
  const float* x;
  const int32_t* index;
  int64_t cols;
  template <int V>
  __device__ void apply(int64_t, int64_t j) const {
    for (int k = 0; k < V; ++k)
      *y.at(index[j + k] / cols, index[j + k] % cols) = from_f32<Y>(x[j + k]);
  }
};

}  // namespace

void scale_cols(Context& context, Mat y, Mat x, Mat factors, bool accumulate) {
  factors.ld = 0;
  with_types(y.dtype, x.dtype, [&](auto* to, auto* from) {
    spans(context, y.rows, y.cols, vectors(y) && vectors(x) && vectors(factors),
          ScaleCols<Pointed<decltype(to)>, Pointed<decltype(from)>>{
              y, x, factors.as<float>(), accumulate});
  });
}

void inverse_sqrt(Context& context, Mat y, Mat x) {
  flat_spans(context, y.rows, y.cols, contiguous(y) && contiguous(x),
             vectors(y) && vectors(x), InverseSqrt{y, x});
}

void gather_elements(Context& context, Mat y, Mat x, const int32_t* index) {
  const int32_t* at = context.to_device(index, y.cols);
  with_type(x.dtype, [&](auto* from) {
    spans(context, 1, y.cols, false,
          GatherElements<Pointed<decltype(from)>>{y.as<float>(), x, at, x.cols});
  });
}

void scatter_elements(Context& context, Mat y, Mat x, const int32_t* index) {
  const int32_t* at = context.to_device(index, x.cols);
  with_type(y.dtype, [&](auto* to) {
    spans(context, 1, x.cols, false,
          ScatterElements<Pointed<decltype(to)>>{y, x.as<float>(), at, y.cols});
  });
}

}  // namespace s2ft::cuda
