// Moving and element-wise kernels: zero, copy, add, scale, bias, dropout.
#include "core/rng.h"
#include "cuda/ops.h"
#include "cuda/spans.cuh"

namespace s2ft::cuda {

namespace {

template <class Y, class X>
struct Copy {
  View<Y> y;
  View<X> x;
  template <int V>
  __device__ void apply(int64_t i, int64_t j) const {
    store<V>(y.at(i, j), load<V>(x.at(i, j)));
  }
};

template <class Y, class X>
struct Add {
  View<Y> y;
  View<X> x;
  template <int V>
  __device__ void apply(int64_t i, int64_t j) const {
    Floats<V> sum = load<V>(y.at(i, j));
    const Floats<V> other = load<V>(x.at(i, j));
    for (int k = 0; k < V; ++k) sum.v[k] += other.v[k];
    store<V>(y.at(i, j), sum);
  }
};

template <class Y>
struct Scale {
  View<Y> y;
  float factor;
  template <int V>
  __device__ void apply(int64_t i, int64_t j) const {
    Floats<V> out = load<V>(y.at(i, j));
    for (int k = 0; k < V; ++k) out.v[k] *= factor;
    store<V>(y.at(i, j), out);
  }
};

template <class Y, class X>
struct Dropout {
  View<Y> y;
  View<X> x;
  int64_t cols;  // of a row, for the element's index
  const CounterHash* hash;
  uint32_t threshold;
  float factor;
  template <int V>
  __device__ void apply(int64_t i, int64_t j) const {
    Floats<V> out = load<V>(x.at(i, j));
    const uint32_t key0 = hash->key0, key1 = hash->key1;
    for (int k = 0; k < V; ++k) {
      const uint64_t index = uint64_t(i * cols + j + k);
      const uint32_t low = uint32_t(index), high = uint32_t(index >> 32);
      // CounterHash of core/rng.h.
      const uint32_t drawn = mix(mix(low ^ key0) ^ (high * 0x9e3779b9u) ^ key1);
      out.v[k] = drawn >= threshold ? out.v[k] * factor : 0.0f;
    }
    store<V>(y.at(i, j), out);
  }
  __device__ static uint32_t mix(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
  }
};

/// `op` between two matrices of any two types, element by element.
template <template <class, class> class Op>
void pairwise(Context& context, Mat y, Mat x) {
  with_types(y.dtype, x.dtype, [&](auto* to, auto* from) {
    flat_spans(context, y.rows, y.cols, contiguous(y) && contiguous(x),
               vectors(y) && vectors(x),
               Op<Pointed<decltype(to)>, Pointed<decltype(from)>>{y, x});
  });
}

}  // namespace

void zero(Context& context, Mat y) {
  if (y.count() == 0) return;
  const size_t size = dtype_size(y.dtype);
  if (!context.repeats().proceed(Repeats::Tag::zero, y)) return;
  check(cudaMemset2DAsync(y.data, size_t(y.ld) * size, 0, size_t(y.cols) * size,
                          size_t(y.rows), context.stream()),
        "zero");
}

void copy(Context& context, Mat y, Mat x) {
  pairwise<Copy>(context, y, x);
}

void add(Context& context, Mat y, Mat x) {
  pairwise<Add>(context, y, x);
}

void scale(Context& context, Mat y, float factor) {
  with_type(y.dtype, [&](auto* to) {
    flat_spans(context, y.rows, y.cols, contiguous(y), vectors(y),
               Scale<Pointed<decltype(to)>>{y, factor});
  });
}

void add_bias(Context& context, Mat y, Mat bias) {
  // Every row adds the same one.
  bias.ld = 0;
  with_types(y.dtype, bias.dtype, [&](auto* to, auto* from) {
    spans(context, y.rows, y.cols, vectors(y) && vectors(bias),
          Add<Pointed<decltype(to)>, Pointed<decltype(from)>>{y, bias});
  });
}

void dropout(Context& context, Mat y, Mat x, float p, uint64_t seed) {
  // Changes from step to step: it travels with the indices.
  const CounterHash hash(seed);
  const CounterHash* on_device = context.to_device(&hash, 1);
  // Kept when the hash is at least p * 2^32; p is below 1.
  const uint32_t threshold = uint32_t(double(p) * 4294967296.0);
  with_types(y.dtype, x.dtype, [&](auto* to, auto* from) {
    spans(context, y.rows, y.cols, vectors(y) && vectors(x),
          Dropout<Pointed<decltype(to)>, Pointed<decltype(from)>>{
              y, x, y.cols, on_device, threshold, 1.0f / (1.0f - p)});
  });
}

}  // namespace s2ft::cuda
