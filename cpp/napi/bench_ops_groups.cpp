// The groups of `s2ft bench ops`, but for the method's own (bench_ops_method.cpp).
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "napi/bench_ops_builder.h"

namespace s2ft {

namespace {

constexpr int64_t kHeadRows = 128;       // a head that trains works in such chunks
constexpr int64_t kCopyBytes = 1 << 27;  // beyond any core's share of the last cache
constexpr float kEpsilon = 1e-5f;

}  // namespace

void OpGroupBuilder::fill(Mat m, float bound) {
  constexpr int64_t chunk = 1 << 16;
  const int64_t n = m.count();
  std::vector<float> host(size_t(std::min(n, chunk)));
  for (float& x : host) x = rng_.uniform(-bound, bound);
  Buffer staging = b.allocate(host.size() * sizeof(float));
  b.upload(staging.data(), host.data(), host.size() * sizeof(float));
  const Mat all = mat(m.data, m.dtype, 1, n);
  for (int64_t i = 0; i < n; i += chunk) {
    const int64_t count = std::min(chunk, n - i);
    b.copy(all.col_range(i, count), mat(staging.data(), DType::f32, 1, count));
  }
  b.synchronize();
}

void OpGroupBuilder::product(const std::string& name, Mat c, Mat a, bool ta, Mat w,
                             bool tw, float beta) {
  const double depth = double(ta ? a.rows : a.cols);
  const double bytes = bytes_of(a) + bytes_of(w) + (beta != 0 ? 2 : 1) * bytes_of(c);
  op(name, 2 * depth * double(c.count()), bytes,
     [this_b = &b, c, a, ta, w, tw, beta] { this_b->matmul(c, a, ta, w, tw, beta); });
}

void OpGroupBuilder::copy() {
  const int64_t cols = 1024, rows = kCopyBytes / (cols * int64_t(dtype_size(s.dtype)));
  const Mat x = zeros(s.dtype, rows, cols), y = zeros(s.dtype, rows, cols);
  op("copy", 0, 2 * bytes_of(x), [b = &b, x, y] { b->copy(y, x); });
}

void OpGroupBuilder::products() {
  const int64_t d = s.hidden, k = s.intermediate, r = s.rank, c = s.channels;
  const int64_t q = s.heads * s.head_dim, qkv = q + 2 * s.kv_heads * s.head_dim;
  const Mat x = activation(d), h = activation(k);
  const Mat dx = empty(s.dtype, s.tokens, d), dh = empty(s.dtype, s.tokens, k);
  struct Shape {
    const char* name;
    int64_t in, out;
    float beta;  // o and down add to the residual stream
  };
  for (const Shape& l : {Shape{"qkv", d, qkv, 0}, Shape{"o", q, d, 1},
                         Shape{"gate_up", d, 2 * k, 0}, Shape{"down", k, d, 1}}) {
    const Mat w = weight(l.out, l.in), in = activation(l.in), out = activation(l.out);
    const Mat d_in = empty(s.dtype, s.tokens, l.in);
    product(std::string(l.name) + "_forward", zeros(s.dtype, s.tokens, l.out), in, false,
            w, true, l.beta);
    product(std::string(l.name) + "_dx", d_in, out, false, w, false, 0);
  }
  const int64_t rows = std::min(kHeadRows, s.tokens);
  const Mat head = weight(s.vocab, d);
  product("head_forward", empty(DType::f32, rows, s.vocab), x.row_range(0, rows), false,
          head, true, 0);
  product("head_dx", dx.row_range(0, rows), random(s.dtype, rows, s.vocab, 1e-3f), false,
          head, false, 0);

  product("slice_rows_gradient", zeros(DType::f32, c, d), h.col_range(0, c), true, x,
          false, 1);
  product("slice_cols_gradient", zeros(DType::f32, d, c), x, true, h.col_range(0, c),
          false, 1);
  // The down projection's adapter: A [r, k], B [d, r].
  const Mat la = weight(r, k), lb = weight(d, r), low = activation(r);
  product("lora_a_forward", empty(s.dtype, s.tokens, r), h, false, la, true, 0);
  product("lora_b_forward", zeros(s.dtype, s.tokens, d), low, false, lb, true, 1);
  product("lora_low_gradient", empty(s.dtype, s.tokens, r), x, false, lb, false, 0);
  product("lora_b_gradient", zeros(DType::f32, d, r), x, true, low, false, 1);
  product("lora_a_gradient", zeros(DType::f32, r, k), low, true, h, false, 1);
  b.zero(dh);
  product("lora_dx", dh, low, false, la, false, 1);
}

void OpGroupBuilder::attention() {
  const int64_t t = s.tokens, q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  struct Host {
    std::vector<int32_t> kv_head_of, begins, k_begin, k_len;
    Sequences sequences;
    AttentionShape shape;
  };
  auto host = std::make_shared<Host>();
  for (int64_t i = 0; i < s.heads; ++i)
    host->kv_head_of.push_back(int32_t(i / (s.heads / s.kv_heads)));
  host->begins = {0, int32_t(t)}, host->k_begin = {0}, host->k_len = {int32_t(t)};
  host->sequences = {1, host->begins.data(), host->k_begin.data(), host->k_len.data()};
  host->shape.heads = int(s.heads), host->shape.kv_heads = int(s.kv_heads);
  host->shape.head_dim = int(s.head_dim);
  host->shape.kv_head_of = host->kv_head_of.data();
  host->shape.scale = 1 / std::sqrt(float(s.head_dim));
  const Mat x = activation(q + 2 * kv), dx = empty(s.dtype, t, q + 2 * kv);
  const Mat o = empty(s.dtype, t, q), d_o = activation(q);
  const Mat lse = empty(DType::f32, t, s.heads);
  // Half of the square; the backward pass's second softmax q k^T is not counted.
  const double flops = 2.0 * double(t) * double(t) * double(q);
  op("attention_forward", flops, bytes_of(x) + bytes_of(o),
     [b = &b, host, x, o, lse, q, kv] {
       b->attention(o, lse, x.col_range(0, q), x.col_range(q, kv),
                    x.col_range(q + kv, kv), host->sequences, host->shape);
     });
  group_.ops.back().run();  // the backward pass needs o and lse
  op("attention_backward", 2 * flops, 2 * bytes_of(x) + 2 * bytes_of(o),
     [b = &b, host, x, dx, d_o, o, lse, q, kv] {
       b->attention_backward(dx.col_range(0, q), dx.col_range(q, kv),
                             dx.col_range(q + kv, kv), d_o, x.col_range(0, q),
                             x.col_range(q, kv), x.col_range(q + kv, kv), o, lse,
                             host->sequences, host->shape);
     });
}

void OpGroupBuilder::elementwise() {
  const int64_t t = s.tokens, d = s.hidden, k = s.intermediate;
  Backend* const b = &this->b;
  const Mat x = activation(d), y = zeros(s.dtype, t, d), w = weight(1, d);
  op("rms_norm_forward", 0, 2 * bytes_of(x),
     [b, x, y, w] { b->rms_norm(y, x, w, kEpsilon); });
  const Mat stream = zeros(s.dtype, t, d), dy = activation(d);
  op("rms_norm_backward", 0, 4 * bytes_of(x), [b, stream, dy, x, w] {
    b->rms_norm_backward(stream, true, Mat{}, dy, x, w, kEpsilon);
  });

  const int64_t half = s.head_dim / 2;
  const Mat qk = activation((s.heads + s.kv_heads) * s.head_dim);
  const Mat cos = empty(DType::f32, t, half), sin = empty(DType::f32, t, half);
  std::vector<float> c(size_t(t * half)), n(size_t(t * half));
  auto positions = std::make_shared<std::vector<int32_t>>(size_t(t));
  std::iota(positions->begin(), positions->end(), 0);
  for (int64_t i = 0; i < t * half; ++i) {
    const double angle =
        double(i / half) * std::pow(1e4, -double(i % half) / double(half));
    c[size_t(i)] = float(std::cos(angle)), n[size_t(i)] = float(std::sin(angle));
  }
  b->upload(cos.data, c.data(), c.size() * sizeof(float));
  b->upload(sin.data, n.data(), n.size() * sizeof(float));
  op("rope", 0, 2 * bytes_of(qk), [b, qk, positions, cos, sin, hd = int(s.head_dim)] {
    b->rope(qk, positions->data(), cos, sin, hd, false);
  });

  const Mat saved = activation(2 * k), gate_up = activation(2 * k), h = activation(k);
  op("swiglu_forward", 0, 3 * bytes_of(h), [b, gate_up, k, out = empty(s.dtype, t, k)] {
    b->swiglu(out, gate_up.col_range(0, k), gate_up.col_range(k, k));
  });
  // In place: without fresh inputs, repeated products would fade to subnormals.
  op("swiglu_backward", 0, 5 * bytes_of(h), [b, gate_up, k, h] {
    b->swiglu_backward(gate_up.col_range(0, k), gate_up.col_range(k, k), h);
  }).prepare = [b, gate_up, saved] { b->copy(gate_up, saved); };

  const int64_t rows = std::min(kHeadRows, t);
  const Mat fresh = random(DType::f32, rows, s.vocab, 4);
  const Mat logits = empty(DType::f32, rows, s.vocab);
  Mat d_logits = logits;  // bf16 gradients lie over the start of their f32 rows
  if (s.dtype != DType::f32)
    d_logits = {logits.data, s.dtype, rows, s.vocab, 2 * s.vocab};
  auto targets = std::make_shared<std::vector<int32_t>>(size_t(rows));
  for (int32_t& target : *targets) target = int32_t(rng_.below(uint64_t(s.vocab)));
  const Mat nll = empty(DType::f32, 1, rows);
  op("cross_entropy", 0, bytes_of(logits) + bytes_of(d_logits),
     [b, nll, d_logits, logits, targets] {
       b->cross_entropy(nll, d_logits, logits, targets->data(), 1e-3f);
     })
      .prepare = [b, logits, fresh] { b->copy(logits, fresh); };

  const Mat hidden = random(s.dtype, t, d, 5), d_hidden = empty(s.dtype, t, d);
  const Mat head = random(s.dtype, s.vocab, d, 0.1f);
  const Mat scratch =
      empty(DType::f32, 1, int64_t(b->linear_cross_entropy_scratch(t, d, s.vocab) / 4));
  auto all_targets = std::make_shared<std::vector<int32_t>>(size_t(t));
  for (int32_t& target : *all_targets) target = int32_t(rng_.below(uint64_t(s.vocab)));
  const Mat all_nll = empty(DType::f32, 1, t);
  op("linear_cross_entropy", 4.0 * double(t) * double(s.vocab) * double(d),
     bytes_of(head), [b, all_nll, d_hidden, hidden, head, all_targets, scratch] {
       b->linear_cross_entropy(all_nll, d_hidden, hidden, head, all_targets->data(),
                               1e-3f, scratch.data);
     });

  const Mat gate = weight(k, d), down = weight(d, k);
  method_adamw("adamw_slice_rows",
               {part<RowsPart>(linear("gate", gate), int64_t(0), s.channels)});
  method_adamw("adamw_slice_cols",
               {part<ColsPart>(linear("down", down), int64_t(0), s.channels)});
  auto order = std::make_shared<std::vector<int32_t>>(channel_order());
  op("permute_rows", 0, 2 * bytes_of(gate),
     [b, gate, order] { b->permute_rows(gate, order->data()); });
  op("permute_cols", 0, 2 * bytes_of(down),
     [b, down, order] { b->permute_cols(down, order->data()); });
}

OpGroup make_op_group(Backend& backend, const OpsShape& shape, const std::string& name) {
  OpGroup group;
  OpGroupBuilder builder(backend, shape, group);
  if (name == "copy") {
    builder.copy();
  } else if (name == "products") {
    builder.products();
  } else if (name == "attention") {
    builder.attention();
  } else if (name == "elementwise") {
    builder.elementwise();
  } else if (name == "method") {
    builder.method();
  } else {
    throw Error("INVALID_ARGUMENT",
                "[bench] group: expected copy, products, attention, elementwise or "
                "method, found " +
                    name);
  }
  return group;
}

}  // namespace s2ft
