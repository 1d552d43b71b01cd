// Rotary position embedding in the half-split layout of the LLaMA checkpoints.
#include "cuda/ops.h"
#include "cuda/spans.cuh"

namespace s2ft::cuda {

namespace {

template <class T>
struct Rotate {
  View<T> x;
  View<float> cos, sin;
  const int32_t* positions;  // (T)
  int64_t half;
  float direction;
  /// Element j of a row's pairs: head j / half, pair j % half.
  template <int V>
  __device__ void apply(int64_t i, int64_t j) const {
    const int64_t pair = j % half, at = positions[i];
    T* low = x.at(i, (j - pair) * 2 + pair);
    T* high = low + half;
    Floats<V> a = load<V>(low), b = load<V>(high);
    const Floats<V> c = load<V>(cos.at(at, pair)), s = load<V>(sin.at(at, pair));
    for (int k = 0; k < V; ++k) {
      const float sk = direction * s.v[k], ak = a.v[k], bk = b.v[k];
      a.v[k] = ak * c.v[k] - bk * sk;
      b.v[k] = bk * c.v[k] + ak * sk;
    }
    store<V>(low, a);
    store<V>(high, b);
  }
};

}  // namespace

void rope(Context& context, Mat x, const int32_t* positions, Mat cos, Mat sin,
          int head_dim, bool inverse) {
  if (x.count() == 0) return;
  const int64_t half = head_dim / 2;
  const int32_t* at = context.to_device(positions, x.rows);
  const bool wide = half % kVector == 0 && vectors(x) && vectors(cos) && vectors(sin);
  with_type(x.dtype, [&](auto* type) {
    spans(context, x.rows, x.cols / 2, wide,
          Rotate<Pointed<decltype(type)>>{x, cos, sin, at, half, inverse ? -1.0f : 1.0f});
  });
}

}  // namespace s2ft::cuda
