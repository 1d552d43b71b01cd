// Makes the operations of `s2ft bench ops` in the shapes of one transformer block. The
// group owns what is allocated; operations hold views and the backend's address.
#pragma once

#include "core/rng.h"
#include "napi/bench_ops.h"

namespace s2ft {

S2FT_INLINE double bytes_of(Mat m) {
  return double(m.count()) * double(dtype_size(m.dtype));
}

/// Adds a group's buffers, parts and operations to an OpGroup.
class OpGroupBuilder {
 public:
  OpGroupBuilder(Backend& backend, const OpsShape& shape, OpGroup& group)
      : b(backend), s(shape), group_(group) {}

  void copy();
  void products();
  void attention();
  void elementwise();
  void method();

 private:
  Mat empty(DType t, int64_t rows, int64_t cols) {
    group_.storage.push_back(b.allocate(size_t(rows * cols) * dtype_size(t)));
    return mat(group_.storage.back().data(), t, rows, cols);
  }
  Mat zeros(DType t, int64_t rows, int64_t cols) {
    const Mat m = empty(t, rows, cols);
    b.zero(m);
    return m;
  }
  Mat random(DType t, int64_t rows, int64_t cols, float bound) {
    const Mat m = empty(t, rows, cols);
    fill(m, bound);
    return m;
  }
  /// Random numbers in [-bound, bound), the same ones over and over in a large matrix.
  void fill(Mat m, float bound);
  Mat activation(int64_t cols) { return random(s.dtype, s.tokens, cols, 1); }
  Mat weight(int64_t out, int64_t in) { return random(s.dtype, out, in, 0.05f); }

  TimedOp& op(const std::string& name, double flops, double bytes,
              std::function<void()> run) {
    TimedOp made;
    made.name = name, made.flops = flops, made.bytes = bytes, made.run = std::move(run);
    group_.ops.push_back(std::move(made));
    return group_.ops.back();
  }
  void product(const std::string& name, Mat c, Mat a, bool ta, Mat w, bool tw,
               float beta);
  /// A random choice of channels first, then the rest, as co-permutation orders them.
  std::vector<int32_t> channel_order();
  void method_adamw(const std::string& name, std::vector<TunedPart*> parts);
  template <class Part, class... Args>
  Part* part(const Linear& linear, Args... args) {
    auto made = std::make_unique<Part>(b, linear, args...);
    Part* raw = made.get();
    group_.parts.push_back(std::move(made));
    return raw;
  }
  Linear linear(const char* name, Mat w) {
    Linear l;
    l.name = name, l.weight = w;
    return l;
  }

  Backend& b;
  const OpsShape s;
  OpGroup& group_;
  Rng rng_{1};
};

}  // namespace s2ft
