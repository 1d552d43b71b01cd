// The gated activation h = silu(gate) * up and its gradient.
#include "cuda/ops.h"
#include "cuda/spans.cuh"

namespace s2ft::cuda {

namespace {

__device__ inline float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

template <class T>
struct Forward {
  View<T> h, gate, up;
  template <int V>
  __device__ void apply(int64_t i, int64_t j) const {
    Floats<V> g = load<V>(gate.at(i, j));
    const Floats<V> u = load<V>(up.at(i, j));
    for (int k = 0; k < V; ++k) g.v[k] = g.v[k] * sigmoid(g.v[k]) * u.v[k];
    store<V>(h.at(i, j), g);
  }
};

template <class T>
struct Backward {
  View<T> gate, up, dh;
  template <int V>
  __device__ void apply(int64_t i, int64_t j) const {
    Floats<V> g = load<V>(gate.at(i, j)), u = load<V>(up.at(i, j));
    const Floats<V> d = load<V>(dh.at(i, j));
    for (int k = 0; k < V; ++k) {
      const float x = g.v[k], s = sigmoid(x), ds = d.v[k] * s;
      g.v[k] = ds * u.v[k] * (1.0f + x * (1.0f - s));
      u.v[k] = ds * x;
    }
    store<V>(gate.at(i, j), g);
    store<V>(up.at(i, j), u);
  }
};

template <template <class> class Op>
void run(Context& context, Mat a, Mat b, Mat c) {
  with_type(a.dtype, [&](auto* type) {
    flat_spans(context, a.rows, a.cols, contiguous(a) && contiguous(b) && contiguous(c),
               vectors(a) && vectors(b) && vectors(c),
               Op<Pointed<decltype(type)>>{a, b, c});
  });
}

}  // namespace

void swiglu(Context& context, Mat h, Mat gate, Mat up) {
  run<Forward>(context, h, gate, up);
}

void swiglu_backward(Context& context, Mat gate, Mat up, Mat dh) {
  run<Backward>(context, gate, up, dh);
}

}  // namespace s2ft::cuda
